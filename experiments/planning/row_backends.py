"""Names the backend that computes the attention of each row."""

from collections.abc import Sequence

from experiments.experiment import Row
from experiments.rows.rows import configure
from model.backends.base import kernels
from train.config.config import Config


def backends(base: Config, rows: Sequence[Row]) -> dict[str, str]:
  """Returns the backend of each row; for `auto`, the one that it selects.

  If the layers use several, their names are joined: "chunked+reference".
  """
  found = {}
  for row in rows:
    config = configure(base, row)
    used = [
      layer.backend.resolved(layer.parts, config.seq_len).tag
      for layer in config.architecture.layers
    ]
    found[row.name] = '+'.join(dict.fromkeys(used))
  return found


def describe_backends(base: Config, rows: Sequence[Row], platform: str) -> str:
  """Returns the backends and their rows as one line for the terminal.

  At the end it names the kernels that could serve but that `auto` never
  selects.
  """
  names: dict[str, list[str]] = {}
  for name, backend in backends(base, rows).items():
    names.setdefault(backend, []).append(name)
  most = max(names, key=lambda tag: len(names[tag]))
  others = [
    f'; {tag}: {", ".join(some)}' for tag, some in names.items() if tag != most
  ]
  asked = {
    f'--backend={kernel.tag}': None
    for row in rows
    for arch in configure(base, row).architecture.layers
    if arch.backend.traits.chooses
    for kernel in kernels(arch.parts, platform)
  }
  too = f' (would serve too: {", ".join(asked)})' if asked else ''
  return f'{most}{"".join(others)}{too}'
