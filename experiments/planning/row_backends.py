"""Names how each row is computed: backend of attention, loop over layers."""

from collections.abc import Sequence
from typing import Any

from experiments.experiment import Row
from experiments.rows.rows import configure
from model.architecture.architecture import Architecture
from model.backends.base import ASKED, kernel_platform, kernels
from train.config.config import Config


def backends(base: Config, rows: Sequence[Row], device: Any) -> dict[str, str]:
  """Returns the backend of each row; for `auto`, the one that it selects.

  If the layers use several, their names are joined: "chunked+reference".

  Args:
    base: the base configuration.
    rows: the rows.
    device: one of the devices that train them.
  """
  return {
    row.name: '+'.join(resolved(configure(base, row), device)) for row in rows
  }


def describe_backends(base: Config, rows: Sequence[Row], device: Any) -> str:
  """Returns the backends, why, and their rows, as one line for the terminal.

  At the end it names the kernels that could serve but that `auto` does not
  select.
  """
  names: dict[str, list[str]] = {}
  others: dict[str, None] = {}
  for row in rows:
    config = configure(base, row)
    used = resolved(config, device)
    told = [
      tag if why == ASKED else f'{tag} (auto: {why})'
      for tag, why in used.items()
    ]
    names.setdefault('+'.join(told), []).append(row.name)
    for layer in config.architecture.layers:
      if layer.backend.traits.chooses:
        found = kernels(layer.parts, kernel_platform(device))
        others |= {
          f'--backend={k.tag}': None for k in found if k.tag not in used
        }
  most = max(names, key=lambda told: len(names[told]))
  rest = [
    f'; {told}: {", ".join(some)}'
    for told, some in names.items()
    if told != most
  ]
  too = f' (would serve too: {", ".join(others)})' if others else ''
  return f'{most}{"".join(rest)}{too}'


def resolved(config: Config, device: Any) -> dict[str, str]:
  """Returns the backends of the layers, each with the reason for it."""
  platform = kernel_platform(device)
  found = {}
  for layer in config.architecture.layers:
    best = layer.backend.resolved(layer.parts, config.seq_len, platform)
    found[best.backend.tag] = best.why
  return found


def describe_loops(base: Config, rows: Sequence[Row]) -> str:
  """Returns how the layers of the rows are compiled, as a line."""
  scanned = [
    row.name for row in rows if _scans(configure(base, row).architecture)
  ]
  if not scanned:
    return 'unrolled (--scan_layers=true compiles one for all)'
  rest = '' if len(scanned) == len(rows) else f' in {", ".join(scanned)}'
  return f'one compiled for all{rest} (--scan_layers=false unrolls)'


def _scans(arch: Architecture) -> bool:
  """Returns whether the layers of any stack run in a loop."""
  groups = [group.stack.name for group in arch.groups]
  return any(
    arch.scans(stack.num_layers // groups.count(stack.name))
    for stack in arch.stacks
  )
