"""Trained trials back in Python."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from helpers.loading import OTHER, ROPE, TEXT, Ran, flags_of, launch
from model.core.side_output import ATTENTION_MAPS
from spec.tolerance import assert_close
from train.config.config import Config
from train.core.errors import DataError
from train.files.durable import digest
from train.files.strict import DamagedFile
from train.flags.schema import override
from train.inference.load import TrainedTrial, load
from train.programs.state import init_state
from train.tasks.texts.text import Text

pytestmark = pytest.mark.usefixtures('quick_compilation')

CASES = [(row, seed) for row in ('base', ROPE) for seed in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(('row', 'seed'), CASES)
def test_parameters_are_those_recorded(ran: Ran, row: str, seed: int) -> None:
  record = ran.records[row, seed]
  names = (record['trial'], record['trial'][:8], f'{row}/{seed}')
  for name in names:
    loaded = load(ran.workdir, name)
    assert loaded.trial == record['trial']
    assert loaded.step == record['steps'] == 20
    assert loaded.config.seed == seed
    assert loaded.config.architecture.position.tag == (
      'rope' if row == ROPE else 'learned'
    )
    assert digest(loaded.params) == record['digest']
  digests = {r['digest'] for r in ran.records.values()}
  assert len(digests) == 4


@pytest.mark.slow
def test_who_removed_all_checkpoints_is_told_how_to_have_them(
  ran: Ran, tmp_path: pathlib.Path
) -> None:
  """Repeating the command alone trains nothing: they wanted the room."""
  workdir = tmp_path / 'run'
  shutil.copytree(ran.workdir, workdir)
  trial = workdir / 'runs' / ran.records['base', 0]['trial']
  shutil.rmtree(trial / 'checkpoints')
  with pytest.raises(
    DataError, match=f'make the folder {trial}/checkpoints an'
  ):
    load(workdir, 'base/0')
  (trial / 'checkpoints').mkdir()
  more = [f'--ablate={ROPE}', '--seeds=2']
  assert launch(workdir, *flags_of(ran.text, {}), *more) == 0
  found = digest(load(workdir, 'base/0').params)
  assert found == ran.records['base', 0]['digest']


@pytest.mark.slow
def test_row_without_a_seed_is_one_of_its_trials(ran: Ran) -> None:
  loaded = load(str(ran.workdir), ROPE)
  trials = [ran.records[ROPE, seed]['trial'] for seed in (0, 1)]
  assert loaded.trial in trials


def test_a_row_whose_first_line_is_gone_is_not_another_trial(
  ran: Ran, tmp_path: pathlib.Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(ran.workdir, workdir)
  path = workdir / 'trials.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  first = ran.records['base', 0]['trial']
  kept = [line for line in lines if first not in line]
  assert len(kept) == len(lines) - 1
  path.write_text(''.join(kept))
  with pytest.raises(
    DamagedFile, match=f'has no line of {first}, .* is seed 0'
  ):
    load(workdir, 'base')
  assert load(workdir, 'base/1').trial == ran.records['base', 1]['trial']
  (workdir / 'runs' / first / 'end.json').unlink()  # it runs still
  assert load(workdir, 'base').trial == ran.records['base', 1]['trial']


@pytest.mark.parametrize('name', ['nothing', 'base/7', 'qk/0', 'zzz/0'])
def test_what_is_not_there_is_named(ran: Ran, name: str) -> None:
  # By the names that trials have, not by their ids.
  there = 'row base has no seed 7' if name == 'base/7' else 'its rows are base'
  with pytest.raises(DataError, match=f'has no trial {name}: {there}'):
    load(ran.workdir, name)


def test_what_is_no_working_directory_is_named(tmp_path: pathlib.Path) -> None:
  with pytest.raises(DataError, match='is not a working directory'):
    load(tmp_path, 'base/0')


def test_loading_changes_no_file(ran: Ran) -> None:
  def files() -> dict[str, bytes]:
    found = (p for p in ran.workdir.rglob('*') if p.is_file())
    return {str(p): p.read_bytes() for p in found}

  before = files()
  load(ran.workdir, 'base/0')
  load(ran.workdir, 'base/0', best=True)
  assert files() == before


# What is loaded computes what was recorded. -----------------------------------


def _loss(
  logits_BTV: jax.Array, targets_BT: np.ndarray, new_BT: np.ndarray
) -> float:
  """Returns the mean cross-entropy of some targets in float64."""
  logits_BTV = np.asarray(logits_BTV, np.float64)
  top_BT1 = logits_BTV.max(-1, keepdims=True)
  total_BT = np.exp(logits_BTV - top_BT1).sum(-1)
  chosen_BT1 = np.take_along_axis(logits_BTV, targets_BT[..., None], -1)
  losses_BT = np.log(total_BT) + (top_BT1 - chosen_BT1)[..., 0]
  return float(losses_BT[new_BT].mean())


def _windows(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns windows of a validation part, their targets, and which are new."""
  last = ids.size - 17
  starts_B1 = np.array([*range(0, last, 16), last])[:, None]
  index_BT = starts_B1 + np.arange(16)
  new_BT = index_BT >= np.arange(0, last + 16, 16)[:, None]
  assert new_BT.sum() == ids.size - 1
  ids = ids.astype(np.int32)
  return ids[index_BT], ids[index_BT + 1], new_BT


@pytest.mark.slow
@pytest.mark.parametrize('row', ['base', ROPE])
def test_apply_gives_the_recorded_loss(ran: Ran, row: str) -> None:
  loaded, record = load(ran.workdir, f'{row}/0'), ran.records[row, 0]
  held = loaded.encode(TEXT)[int(0.9 * len(TEXT)) :]
  inputs_BT, targets_BT, new_BT = _windows(held)
  out = loaded.apply(inputs_BT, wanted=ATTENTION_MAPS)
  assert_close(
    np.float32(_loss(out.logits_BTV, targets_BT, new_BT)),
    record['metrics']['val_loss'],
    inputs_BT.size * 16,
  )
  assert out.weights_LBNTS is not None
  assert out.weights_LBNTS.shape == (2, len(inputs_BT), 2, 16, 16)
  assert_close(out.weights_LBNTS.sum(-1), np.ones((2, 3, 2, 16)), 16)
  assert loaded.apply(inputs_BT).weights_LBNTS is None
  # A list of ids, and a context shorter than that in training.
  short = loaded.apply([loaded.encode('abc').tolist()])
  assert short.logits_BTV.shape == (1, 3, 4)


def test_evaluate_gives_the_recorded_figures(ran: Ran) -> None:
  figures = load(ran.workdir, 'base/1').evaluate()
  metrics = ran.records['base', 1]['metrics']
  assert figures['val_loss'] == metrics['val_loss']
  assert figures['val_accuracy'] == metrics['val_accuracy']
  # All but the first of them is predicted.
  assert (figures['tokens'], figures['targets']) == (40, 39)


def test_best_is_the_checkpoint_with_the_lowest_loss(ran: Ran) -> None:
  metrics = ran.records['base', 0]['metrics']
  assert metrics['best_step'] < 20
  assert metrics['best_val_loss'] < metrics['val_loss'] - 0.1
  best = load(ran.workdir, 'base/0', best=True)
  assert best.step == metrics['best_step']
  assert best.evaluate()['val_loss'] == metrics['best_val_loss']
  assert digest(best.params) != ran.records['base', 0]['digest']


@pytest.mark.slow
def test_evaluate_on_another_text(ran: Ran, tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'other.txt'
  path.write_text(OTHER)
  loaded = load(ran.workdir, 'base/0')
  figures = loaded.evaluate(Text(path=str(path)))
  whole = loaded.evaluate(Text(path=str(path)), everything=True)
  for found, held in ((figures, OTHER[360:]), (whole, OTHER)):
    inputs_BT, targets_BT, new_BT = _windows(loaded.encode(held))
    logits_BTV = loaded.apply(inputs_BT).logits_BTV
    loss = _loss(logits_BTV, targets_BT, new_BT)
    assert found['val_loss'] == pytest.approx(loss)
    assert found['tokens'] == found['characters'] == len(held)
    assert found['targets'] == len(held) - 1
    assert found['perplexity'] == pytest.approx(np.exp(loss))
    assert found['bits_per_byte'] == pytest.approx(loss / np.log(2))
  path.write_text(OTHER + 'ß')
  with pytest.raises(
    DataError, match=r"other.txt: 1 char.*'ß'.*tokenizer=byte"
  ):
    loaded.evaluate(Text(path=str(path)))
  path.write_text('abcd')
  with pytest.raises(DataError, match=r'other.txt: its .* part has .* tokens'):
    loaded.evaluate(Text(path=str(path)))


def test_a_text_that_has_changed_is_not_taken_for_that_of_the_trial(
  ran: Ran,
) -> None:
  """Its figures would be of another text, some of which was trained on."""
  loaded = load(ran.workdir, 'base/0')
  path = ran.text
  before = path.read_text()
  try:
    path.write_text(before + before[:40])
    with pytest.raises(DataError, match=r'not what trial .* trained'):
      loaded.evaluate()
  finally:
    path.write_text(before)


@pytest.mark.parametrize('split', ['auto', 'tail', 'each'])
@pytest.mark.parametrize('everything', [False, True])
def test_a_text_that_was_trained_on_is_named(
  ran: Ran, split: str, everything: bool
) -> None:
  loaded = load(ran.workdir, 'base/0')
  said: list[str] = []
  task = override(loaded.config, {'task.split': split}).task
  loaded.evaluate(task, said.append, everything)
  warned = [line for line in said if 'has seen some of what' in line]
  assert len(warned) == (everything or split != 'auto')


def test_a_table_that_was_trained_on_is_named(tmp_path: pathlib.Path) -> None:
  """All of its rows are judged, nine in ten of which are known."""
  mine, other = tmp_path / 'a.tsv', tmp_path / 'b.tsv'
  mine.write_text(''.join(f'word{n} and\t{"ab"[n % 2]}\n' for n in range(40)))
  other.write_text('word1 and\ta\nword2 and\tb\n')
  made = {
    'model': 'classifier',
    'task': 'classification',
    'task.data': 'tsv',
    'task.data.train': str(mine),
    'd_model': '8',
    'num_layers': '1',
    'num_heads': '2',
    'seq_len': '4',
  }
  config = override(Config(), made)
  data = config.task.load()
  params = init_state(config, config.sizes(data.vocabulary)).params
  loaded = TrainedTrial('x', config, data.vocabulary, params, 0, data.digest)
  for path, warned in ((mine, 1), (other, 0)):
    said: list[str] = []
    task = override(config, {'task.data.train': str(path)}).task
    loaded.evaluate(task, said.append, everything=True)
    assert sum('has seen some of what' in line for line in said) == warned
