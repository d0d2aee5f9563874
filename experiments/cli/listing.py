"""The output of --list and --plan."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from experiments.experiment import Experiment
from experiments.messages import formats
from experiments.messages.escapes import escape_name
from experiments.messages.page import NameCell, Page
from experiments.planning.cost import cost_on
from experiments.planning.plan import Plan, program_key
from experiments.planning.speed import estimate
from experiments.planning.stages import size
from experiments.rows.rows import configure
from model.core.field import split, variant_list, variants
from train.config.config import Config
from train.flags.absl_flags import variant_summary
from train.flags.schema import flag_specs
from train.measurements.base import Measurement
from train.tasks.base import Task


def show_list(found: Mapping[str, Experiment]) -> None:
  """Prints experiments with citation, kind and cost, then all variants."""
  page = Page()
  page.line('Experiments', style='bold')
  for experiment in found.values():
    page.line(experiment.name, 2, 'cyan')
    page.line(experiment.title, 6)
    page.line(experiment.citation, 6)
    blocks = len(experiment.blocks)
    many = f'{blocks} blocks x ' if blocks else ''
    page.line(
      f'[{experiment.kind}; {many}'
      f'{formats.format_number_of(len(experiment.rows), "row")} x '
      f'{formats.format_number_of(experiment.seeds, "seed")}; '
      f'{experiment.cost}]',
      6,
    )
  for path, leaf in flag_specs(Config).items():
    choices = variants(leaf.hint) or variant_list(leaf.hint)
    if not choices:
      continue
    meta, _ = next(iter(leaf.owners.values()))
    page.gap()
    page.line(f'--{path}: {meta.help.rstrip(":")}', style='bold')
    for tag, variant in choices.items():
      page.line(f'{tag}: {variant_summary(variant)}', 2, head=f'{tag}:')
      shows = issubclass(variant, Task | Measurement)
      for figure in variant.figures if shows else ():
        page.line(f'--metric={figure.name}: {figure.about}', 6)


def show_plan(plan: Plan) -> None:
  """Prints rows, parameters, FLOPs, programs, disk space and time of a plan."""
  console = Console(highlight=False)
  table = Table(box=None, padding=(0, 2, 0, 0))
  table.add_column('row', max_width=34, overflow='fold')
  for header in ('parameters', 'FLOPs/token', 'state', 'TFLOP/trial'):
    table.add_column(header, justify='right', no_wrap=True)
  every = (*plan.trials, *plan.controls)
  # Each row by its own data: another tokenizer has another vocabulary.
  data = {planned.row: planned.trial.data for planned in every}
  found = {row.name: configure(plan.base, row) for row in plan.rows}
  found |= {p.row: p.trial.config for p in plan.controls}
  names, configs = [*found], [*found.values()]
  costs = [cost_on(c, data[name].vocabulary) for name, c in found.items()]
  for name, figures in zip(names, costs, strict=True):
    table.add_row(
      NameCell(escape_name(name)),
      f'{figures.parameters:,}',
      f'{figures.flops_per_token:,}',
      f'{figures.state_bytes / 2**20:.1f} MiB',
      f'{figures.flops / 1e12:.3f}',
    )
  console.print(table)
  trials, steps = size(plan)
  # max: without training, the steps are 0.
  mean = sum(c.flops for c in costs) / max(1, sum(c.steps for c in configs))
  kept = plan.options.keep_checkpoints + 1  # one more for the best
  if every_steps := plan.options.keep_every:
    kept += max(config.steps for config in configs) // every_steps
  disk = kept * trials * sum(f.checkpoint_bytes for f in costs) / len(costs)
  count = len({program_key(planned.trial) for planned in every})
  expected = estimate(every, plan.devices, count)
  # A search does not train all of its points to the end.
  share = steps / max(1, sum(planned.stop for planned in every))
  how = (
    'from the last runs on this machine'
    if expected.measured
    else 'rough: at a quarter of the rate of a matrix product, without '
    'compilation; measured once the first trial has ended here'
  )
  console.print(
    f'{formats.format_number_of(trials, "trial")}, '
    f'{formats.format_number_of(count, "program")} to compile, '
    f'{mean * steps / 1e12:.2f} TFLOP: '
    f'{formats.format_expected(expected.seconds * share)} ({how}), '
    f'{disk / 2**20:.0f} MiB of checkpoints'
  )
  free = ', '.join(sorted(split(plan.base)[1]))
  console.print(f'free, without a program of their own: {free}')
