"""Which backend computes the attention of each row."""

from collections.abc import Sequence

from experiments.experiment import Row
from experiments.rows import configure
from model.backend import Auto, Reference, also, chosen
from train.config import Config


def backends(base: Config, rows: Sequence[Row]) -> dict[str, Reference]:
  """Returns the backend of each row; of `auto`, the one that it takes."""
  found = {}
  for row in rows:
    config = configure(base, row)
    arch = config.architecture
    found[row.name] = chosen(arch.backend, arch.parts, config.seq_len)
  return found


def describe_backends(base: Config, rows: Sequence[Row], platform: str) -> str:
  """Returns the backends as the terminal shows them: rows by backend.

  Behind them stand the kernels that `auto` leaves to those who ask.
  """
  names: dict[str, list[str]] = {}
  for name, backend in backends(base, rows).items():
    names.setdefault(backend.tag, []).append(name)
  most = max(names, key=lambda tag: len(names[tag]))
  others = [
    f'; {tag}: {", ".join(some)}' for tag, some in names.items() if tag != most
  ]
  kernels = {
    f'--backend={kernel.tag}': None
    for arch in (configure(base, row).architecture for row in rows)
    if isinstance(arch.backend, Auto)
    for kernel in also(arch.parts, platform)
  }
  too = f' (would serve too: {", ".join(kernels)})' if kernels else ''
  return f'{most}{"".join(others)}{too}'
