"""What --help, --list and --plan show."""

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

import train.tasks  # noqa: F401  (its files are the members of Task)
from experiments.command import Command
from experiments.experiment import Experiment
from experiments.plan import Plan
from model.field import variant_list, variants
from train.config import Config
from train.flags import describe, summary
from train.loop import Options
from train.schema import leaves


def show_help() -> None:
  """Prints every flag with its type, default, choices and citations."""
  console = Console(highlight=False)
  for title, record in (
    ('Run', Command),
    ('Options', Options),
    ('Trial', Config),
  ):
    console.print(f'\n[bold]{title}[/bold]: {summary(record)}', markup=True)
    for path, leaf in leaves(record).items():
      head, body = describe(path, leaf)
      console.print(Text(f'  {head}'))
      for line in body.splitlines():
        console.print(Text(line), soft_wrap=False)


def show_list(found: Mapping[str, Experiment]) -> None:
  """Prints experiments with citation, kind and cost; tasks; variants."""
  console = Console(highlight=False)
  console.print(Text('Experiments', style='bold'))
  for experiment in found.values():
    console.print(Text(f'  --experiment={experiment.name}: {experiment.title}'))
    console.print(
      Text(f'    {experiment.citation} [{experiment.kind}, {experiment.cost}]')
    )
  for path, leaf in leaves(Config).items():
    choices = variants(leaf.hint) or variant_list(leaf.hint)
    if not choices:
      continue
    console.print(Text(f'--{path}', style='bold'))
    for tag, variant in choices.items():
      console.print(Text(f'  {tag}: {summary(variant)}'))


def show_plan(plan: Plan) -> None:
  """Prints rows, parameters, FLOPs and programs; runs nothing."""
