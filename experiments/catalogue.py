"""What --list and --plan show."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.cost import cost_on
from experiments.experiment import Experiment
from experiments.page import Page
from experiments.plan import Plan, program_key
from experiments.rows import configure
from experiments.shown import shown
from experiments.speed import estimate
from experiments.stages import size
from model.field import split, variant_list, variants
from train.config import Config
from train.flags import summary
from train.schema import leaves
from train.task import Task


def show_list(found: Mapping[str, Experiment]) -> None:
  """Prints experiments with citation, kind and cost; tasks; variants."""
  page = Page()
  page.line('Experiments', style='bold')
  for experiment in found.values():
    page.line(experiment.name, 2, 'cyan')
    page.line(experiment.title, 6)
    page.line(experiment.citation, 6)
    page.line(
      f'[{experiment.kind}; {len(experiment.rows)} rows x {experiment.seeds} '
      f'seeds; {experiment.cost}]',
      6,
    )
  for path, leaf in leaves(Config).items():
    choices = variants(leaf.hint) or variant_list(leaf.hint)
    if not choices:
      continue
    meta, _ = next(iter(leaf.owners.values()))
    page.gap()
    page.line(f'--{path}: {meta.help.rstrip(":")}', style='bold')
    for tag, variant in choices.items():
      page.line(f'{tag}: {summary(variant)}', 2, head=f'{tag}:')
      for figure in variant.figures if issubclass(variant, Task) else ():
        page.line(f'--metric={figure.name}: {figure.about}', 6)


def show_plan(plan: Plan) -> None:
  """Prints rows, parameters, FLOPs, programs, disk and time; runs nothing."""
  console = Console(highlight=False)
  table = Table(box=None, padding=(0, 2, 0, 0))
  table.add_column('row', max_width=34, overflow='fold')
  for header in ('parameters', 'FLOPs/token', 'state', 'TFLOP/trial'):
    table.add_column(header, justify='right', no_wrap=True)
  configs = [configure(plan.base, row) for row in plan.rows]
  # Of each row in its own data: another tokenizer is another vocabulary.
  data = {planned.row: planned.trial.data for planned in plan.trials}
  costs = [
    cost_on(config, data[row.name].vocabulary)
    for row, config in zip(plan.rows, configs, strict=True)
  ]
  for row, figures in zip(plan.rows, costs, strict=True):
    table.add_row(
      Text(shown(row.name)),
      f'{figures.parameters:,}',
      f'{figures.flops_per_token:,}',
      f'{figures.state_bytes / 2**20:.1f} MiB',
      f'{figures.flops / 1e12:.3f}',
    )
  console.print(table)
  trials, steps = size(plan)
  mean = sum(c.flops for c in costs) / sum(c.steps for c in configs)
  kept = plan.options.keep_checkpoints + 1  # and the best
  disk = kept * trials * sum(f.checkpoint_bytes for f in costs) / len(costs)
  count = len({program_key(planned.trial) for planned in plan.trials})
  expected = estimate(plan.trials, plan.devices, count)
  # Of a search, not all points are trained to the end.
  share = steps / sum(planned.stop for planned in plan.trials)
  how = (
    'as the last runs on this machine were'
    if expected.measured
    else 'rough: a quarter of the rate of a matrix product; the first trial '
    'that ends here will tell'
  )
  console.print(
    f'{trials} trials, {count} programs to compile, '
    f'{mean * steps / 1e12:.2f} TFLOP: about '
    f'{expected.seconds * share / 60:.1f} minutes ({how}), '
    f'{disk / 2**20:.0f} MiB of checkpoints'
  )
  _, free = split(plan.base)
  console.print(
    f'free, without a program of their own: {", ".join(sorted(free))}'
  )
