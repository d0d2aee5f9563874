"""Which blocks of an experiment a command runs, and where each works."""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from experiments.command import Command
from experiments.experiment import Experiment
from experiments.messages.errors import CommandError
from experiments.planning.plan import Plan
from model.core.field import FieldError
from train.config.config import Config
from train.files.durable import read_json
from train.files.records import AGAIN
from train.flags.schema import non_default_flags
from train.flags.suggest import suggest_value

BLOCKS_FILE = 'blocks.json'


@dataclasses.dataclass(frozen=True)
class BlocksOwner:
  """The content of blocks.json: the experiment whose blocks are in a folder."""

  experiment: str


def select_blocks(
  experiment: Experiment, name: str | None
) -> tuple[Experiment, ...]:
  """Returns the blocks to run: all, or the one named; or the experiment itself.

  Raises:
    FieldError: there is no block of this name.
  """
  parts = experiment.parts
  if name is None:
    return parts
  names = [part.block for part in parts if part.block is not None]
  if name not in names:
    there = f'one of {"|".join(names)}' if names else 'left out: it has none'
    near = suggest_value(name, names)
    raise FieldError(
      'block', name, f'of {experiment.name} must be {there}{near}'
    )
  return tuple(part for part in parts if part.block == name)


def blocks_folder(
  experiment: Experiment, typed: Mapping[str, str], command: Command
) -> pathlib.Path:
  """Returns the folder of all blocks: --workdir, or one named by a digest.

  Raises:
    CommandError: it has other files in it.
  """
  about = [
    experiment.name,
    non_default_flags(Config(), experiment.base),
    {flag: text for flag, text in typed.items() if flag != 'seed'},
    command.smoke,
  ]
  digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
  name = f'{experiment.name}-{digest.hexdigest()[:8]}'
  if command.shard is not None:
    name += f'-{command.shard.replace("/", "of")}'
  folder = pathlib.Path(command.workdir or f'runs/{name}')
  _check(folder, experiment)
  return folder


def block_command(
  part: Experiment, command: Command, folder: pathlib.Path
) -> Command:
  """Returns the command of one block, with its own working directory."""
  assert part.block is not None
  merge = command.merge and shlex.join(
    str(pathlib.Path(name) / part.block) for name in shlex.split(command.merge)
  )
  workdir = str(folder / part.block)
  return dataclasses.replace(
    command, workdir=workdir, merge=merge, block=part.block
  )


def check_different(plans: Sequence[Plan]) -> None:
  """Raises a FieldError if flags make two blocks the same."""
  seen: dict[tuple[Config, str], Plan] = {}
  for plan in plans:
    rows = json.dumps([[row.name, dict(row.changes)] for row in plan.rows])
    other = seen.setdefault((plan.base, rows), plan)
    if other is not plan:
      block = plan.experiment.block
      raise FieldError(
        'block',
        None,
        f'must be given: with these flags {other.experiment.block} and {block} '
        f'are the same, so --block={block} runs it once',
      )


def _check(folder: pathlib.Path, experiment: Experiment) -> None:
  """Refuses a folder with files other than blocks of this experiment."""
  try:
    names = sorted(p.name for p in folder.iterdir() if p.name[0] != '.')
  except FileNotFoundError:
    return
  except OSError as e:
    raise CommandError(
      f'--workdir={folder}: cannot be used ({e.strerror}): give another'
    ) from e
  if not names:
    return
  if BLOCKS_FILE not in names:
    raise CommandError(
      f'--workdir={folder}: holds no blocks but {names[0]}: give an empty or a '
      'new folder'
    )
  theirs = read_json(folder / BLOCKS_FILE, BlocksOwner, AGAIN).experiment
  if theirs != experiment.name:
    raise CommandError(
      f'--workdir={folder}: belongs to experiment {theirs}, not '
      f'{experiment.name}: give another --workdir'
    )
