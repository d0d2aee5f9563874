"""Damaged checkpoints are noticed, and the one before is taken."""

import dataclasses
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from helpers import alone
from helpers.processes import (
  TINY,
)
from train.config.config import Config
from train.devices.parallel import SharedLayout, to_host
from train.files.checkpoint import Checkpoints
from train.files.durable import append_lines, read_intact_lines
from train.flags.schema import override
from train.programs.state import init_state
from train.trial import Interrupted, Options, Result, Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')


def devices() -> SharedLayout:
  """Returns one device."""
  return SharedLayout((jax.local_devices()[0],))


def trial(text: Path, directory: Path) -> Trial:
  """Returns the base row of the run."""
  config: Config = override(Config(), {**TINY, 'task.path': str(text)})
  return Trial('one', config, directory, config.task.load())


def train(
  mine: Trial, until: int | None = None
) -> tuple[Result | None, list[str]]:
  """Trains to the end, or to a step; returns the result and the warnings."""
  listener = alone.Listener(until)
  options = Options(checkpoint_seconds=0.0, log_every=3)
  try:
    result = alone.run(mine, options, devices(), listener)
  except Interrupted:
    result = None
  return result, listener.warnings


@dataclasses.dataclass(frozen=True)
class Halves:
  """A trial that was stopped halfway, and what it comes to in one go."""

  stopped: Path
  result: Result
  figures: list[dict[str, Any]]


@pytest.fixture(scope='module')
def halves(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Halves:
  """Trained once in one go, once up to the middle; do not change."""
  folder = tmp_path_factory.mktemp('halves')
  result, warnings = train(trial(text, folder / 'whole'))
  assert result is not None
  assert not warnings
  stopped, _ = train(trial(text, folder / 'stopped'), until=25)
  assert stopped is None
  assert 25 <= steps_of(folder / 'stopped')[-1] < 40
  figures = read_intact_lines(folder / 'whole/metrics.jsonl')
  return Halves(folder / 'stopped', result, figures)


def steps_of(directory: Path) -> list[int]:
  """Returns the steps that have a folder among the checkpoints."""
  names = [p.name for p in (directory / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


def newest(directory: Path) -> Path:
  """Returns the folder of the newest checkpoint."""
  return directory / 'checkpoints' / str(steps_of(directory)[-1])


def data_file(checkpoint: Path) -> Path:
  """Returns the largest file of the state: it holds the parameters."""
  files = [p for p in (checkpoint / 'state').rglob('*') if p.is_file()]
  return max(files, key=lambda p: (p.stat().st_size, p))


def truncate(checkpoint: Path) -> None:
  path = data_file(checkpoint)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_file(checkpoint: Path) -> None:
  data_file(checkpoint).write_bytes(b'')


def empty_folder(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  checkpoint.mkdir()


def flip(checkpoint: Path) -> None:
  """Changes two bits: one may be of what nobody reads."""
  path = data_file(checkpoint)
  for bit in (path.stat().st_size * 3, path.stat().st_size * 5):
    flip_bit(path, bit)


def flip_bit(path: Path, bit: int) -> None:
  """Changes one bit of a file."""
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def lose_extra(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint / 'extra')


def later_step(checkpoint: Path) -> None:
  (checkpoint.parent / '39').mkdir()


DAMAGES = (truncate, empty_file, empty_folder, flip, lose_extra, later_step)


def assert_recovers(mine: Trial, halves: Halves, at_least: int = 1) -> None:
  """Fails unless a trial warns, goes on, and comes to the same result."""
  result, warnings = train(mine)
  assert len(warnings) >= at_least, warnings
  assert all('damaged' in w and len(w.splitlines()) == 1 for w in warnings)
  assert result is not None
  assert result._replace(clock={}) == halves.result._replace(clock={})
  assert read_intact_lines(mine.directory / 'metrics.jsonl') == halves.figures


# What Orbax leaves behind when a restore fails is found by the collector.
QUIET = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize('damage', DAMAGES, ids=lambda d: d.__name__)
def test_falls_back_to_the_checkpoint_before(
  damage: Callable[[Path], None], text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  damage(newest(mine.directory))
  assert_recovers(mine, halves)


@pytest.mark.slow
@QUIET
def test_begins_again_if_all_are_damaged(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  steps = steps_of(mine.directory)
  for step in steps:
    flip(mine.directory / 'checkpoints' / str(step))
  assert_recovers(mine, halves, len(steps))


def restored(
  mine: Trial, step: int | None = None
) -> tuple[int, Any, dict[str, Any], list[str]]:
  """Returns step, arrays and JSON of the newest whole checkpoint."""
  dims = mine.config.dims(mine.data.vocabulary.size)
  template = to_host(init_state(mine.config, dims).checkpoint_tree)
  warnings: list[str] = []
  checkpoints = Checkpoints(mine.directory / 'checkpoints', 2, warnings.append)
  try:
    found = (
      checkpoints.restore(template)
      if step is None
      else checkpoints.restore_step(step, template)
    )
  finally:
    checkpoints.close()
  assert found is not None
  return found.step, found.tree, found.extra, warnings


# Each file of a checkpoint, by what is done to it.
EVERY_FILE: dict[str, Callable[[Path, random.Random], None]] = {
  'flipped': lambda p, draw: flip_bit(
    p, draw.randrange(max(p.stat().st_size, 1) * 8)
  ),
  'emptied': lambda p, _: p.write_bytes(b'') and None,
  'cut': lambda p, _: p.write_bytes(p.read_bytes()[:-1]) and None,
  'lost': lambda p, _: p.unlink(),
}


def assert_restores_or_falls_back(
  mine: Trial, truth: dict[int, tuple[Any, dict[str, Any]]]
) -> None:
  """Fails if a restore raises, or returns what was not saved."""
  step, tree, extra, warnings = restored(mine)
  saved_tree, saved_extra = truth[step]
  same = jax.tree.map(np.array_equal, tree, saved_tree)
  assert all(jax.tree.leaves(same)), f'step {step} has other arrays'
  assert extra == saved_extra, f'step {step} has other JSON'
  assert warnings or step == max(truth), 'fell back without a word'


def damage_every_file(
  how: str, text: Path, halves: Halves, tmp_path: Path, rounds: int
) -> list[str]:
  """Damages one file after the other; returns what went wrong."""
  mine = trial(text, tmp_path / 'one')
  truth = {}
  for step in steps_of(halves.stopped):
    shutil.copytree(halves.stopped, mine.directory)
    truth[step] = restored(mine, step)[1:3]
    shutil.rmtree(mine.directory)
  files = [p for p in newest(halves.stopped).rglob('*') if p.is_file()]
  draw, wrong = random.Random(0), []
  for path in sorted(files) * rounds:
    if path.stat().st_size == 0 and how != 'lost':
      continue
    name = path.relative_to(halves.stopped)
    shutil.copytree(halves.stopped, mine.directory)
    EVERY_FILE[how](mine.directory / name, draw)
    try:
      assert_restores_or_falls_back(mine, truth)
    except Exception as e:
      first = (str(e).splitlines() or [''])[0][:120]
      wrong.append(f'{name}: {type(e).__name__}: {first}')
    except AssertionError as e:
      wrong.append(f'{name}: {str(e).splitlines()[0]}')
    shutil.rmtree(mine.directory)
  return wrong


@pytest.mark.slow
@QUIET
def test_a_flipped_digit_in_the_notes_is_noticed(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  """The notes hold figures of the table: they need a digest too."""
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  path = newest(mine.directory) / 'extra/metadata'
  number = re.search(rb'"best_val_loss": ?\d\.(\d)', path.read_bytes())
  assert number is not None
  flip_bit(path, number.start(1) * 8)  # 2.5 becomes 2.4
  assert_recovers(mine, halves)


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize('how', EVERY_FILE)
def test_damage_to_any_file_is_noticed_or_harmless(
  how: str, text: Path, halves: Halves, tmp_path: Path
) -> None:
  rounds = 8 if how == 'flipped' else 1
  wrong = damage_every_file(how, text, halves, tmp_path, rounds)
  assert not wrong, '\n'.join(sorted(set(wrong)))


def test_a_torn_figure_is_mended(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  path = mine.directory / 'metrics.jsonl'
  append_lines(path, [{'step': 33, 'loss': 9.0}])
  path.write_bytes(path.read_bytes() + b'{"step": 36, "lo')
  result, warnings = train(mine)
  assert result is not None
  assert not warnings
  assert result._replace(clock={}) == halves.result._replace(clock={})
  assert path.read_text().endswith('\n')
  assert read_intact_lines(path) == halves.figures
  assert len(path.read_text().splitlines()) == len(halves.figures)
