"""Names the rows whose layers run in a loop, and those that are unrolled."""

from collections.abc import Sequence

from experiments.experiment import Row
from experiments.rows.rows import configure
from model.architecture.architecture import Architecture
from train.config.config import Config


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
