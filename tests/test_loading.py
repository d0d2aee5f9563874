"""Trained trials back in Python, and as the initial values of others."""

import json
import pathlib
import re
import shutil
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from absl import flags

from experiments import cli
from tolerance import assert_close
from train import windows
from train.config import Config
from train.files import digest, read_lines
from train.load import Loaded, load
from train.schema import override
from train.step import init_state
from train.strict import Damaged
from train.task import DataError
from train.tasks.text import Text
from train.tokenizer import Bpe

pytestmark = pytest.mark.usefixtures('quick_compilation')

# The validation part, the last tenth, is unlike the rest: the better the one is
# learned the worse the other is guessed, so that the best checkpoint is not the
# last.
TEXT = 'abcabcabd' * 40 + 'dcbadcba' * 5
OTHER = 'abdc' * 100

SIZES = {
  'd_model': '16',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '4',
  'steps': '20',
  'eval_every': '5',
  'warmup_steps': '2',
  'learning_rate': '0.02',
}


class Ran(NamedTuple):
  """A working directory, and its records by (row, seed)."""

  workdir: pathlib.Path
  text: pathlib.Path
  records: Mapping[tuple[str, int], Mapping[str, Any]]


def _launch(workdir: pathlib.Path, *arguments: str) -> int:
  """Runs a command line in this process and returns its exit code."""
  handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    argv = ['launch.py', f'--workdir={workdir}', *arguments]
    return cli.main(argv, flags.FlagValues(), '')
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _flags(text: pathlib.Path, more: Mapping[str, str]) -> list[str]:
  given = {'task.path': str(text)} | SIZES | dict(more)
  return [f'--{name}={value}' for name, value in given.items()]


def _records(
  workdir: pathlib.Path,
) -> dict[tuple[str, int], Mapping[str, Any]]:
  lines = read_lines(workdir / 'trials.jsonl')
  return {(line['row'], line['seed']): line for line in lines}


ROPE = 'position=rope'


@pytest.fixture(scope='module')
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
  """Two rows with two seeds each."""
  folder = tmp_path_factory.mktemp('loading')
  text, workdir = folder / 'text.txt', folder / 'run'
  text.write_text(TEXT)
  more = [f'--ablate={ROPE}', '--seeds=2']
  assert _launch(workdir, *_flags(text, {}), *more) == 0
  records = _records(workdir)
  assert set(records) == {(r, s) for r in ('base', ROPE) for s in (0, 1)}
  return Ran(workdir, text, records)


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
  assert _launch(workdir, *_flags(ran.text, {}), *more) == 0
  found = digest(load(workdir, 'base/0').params)
  assert found == ran.records['base', 0]['digest']


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
  with pytest.raises(Damaged, match=f'has no line of {first}, .* is seed 0'):
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
  out = loaded.apply(inputs_BT, want_weights=True)
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
  loaded = Loaded('x', config, data.vocabulary, params, 0, data.digest)
  for path, warned in ((mine, 1), (other, 0)):
    said: list[str] = []
    task = override(config, {'task.data.train': str(path)}).task
    loaded.evaluate(task, said.append, everything=True)
    assert sum('has seen some of what' in line for line in said) == warned


# The command line. ------------------------------------------------------------


def _evaluate(ran: Ran, trial: str, *arguments: str) -> int:
  argv = ['launch.py', f'--evaluate={ran.workdir}:{trial}', *arguments]
  return cli.main(argv, flags.FlagValues(), '')


def test_evaluate_flag_prints_the_recorded_loss(
  ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
  assert _evaluate(ran, f'{ROPE}/1') == 0
  (line,) = capsys.readouterr().out.splitlines()
  record = ran.records[ROPE, 1]
  printed = json.loads(line)
  assert printed['trial'] == record['trial']
  assert printed['step'] == 20
  assert printed['val_loss'] == record['metrics']['val_loss']
  assert printed['val_accuracy'] == record['metrics']['val_accuracy']


@pytest.mark.slow
def test_evaluate_flag_looks_at_the_examples_of_the_trial(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """At --eval_examples of them, and at all of another text."""
  text = tmp_path / 'text.txt'
  text.write_text(TEXT)
  few = _flags(text, {'eval_examples': '1', 'steps': '5'})
  assert _launch(tmp_path / 'new', *few, '--only=base', '--seeds=1') == 0
  (record,) = _records(tmp_path / 'new').values()
  capsys.readouterr()
  argv = ['launch.py', f'--evaluate={tmp_path}/new:base']
  assert cli.main(argv, flags.FlagValues(), '') == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed['val_loss'] == record['metrics']['val_loss']
  assert printed['targets'] == 16
  other = tmp_path / 'other.txt'
  other.write_text(OTHER)
  argv.append(f'--task.path={other}')
  assert cli.main(argv, flags.FlagValues(), '') == 0
  assert json.loads(capsys.readouterr().out)['targets'] == 399


@pytest.mark.slow
@pytest.mark.parametrize(
  'flag', ['--task.tokenizer=byte', '--feed=host', '--top_k=3', '--prompt=a']
)
def test_evaluate_flag_refuses_what_has_no_effect(
  ran: Ran, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
  assert _evaluate(ran, 'base/0', flag) == 2
  name = flag.partition('=')[0]
  assert f'leaves {name} without' in capsys.readouterr().err


def test_evaluate_flag_on_another_text(
  ran: Ran, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path = tmp_path / 'other.txt'
  path.write_text(OTHER)
  assert _evaluate(ran, 'base/0', f'--task.path={path}') == 0
  printed = json.loads(capsys.readouterr().out)
  loaded = load(ran.workdir, 'base/0')
  other = loaded.evaluate(Text(path=str(path)), everything=True)
  assert printed['val_loss'] == other['val_loss']
  assert printed['tokens'] == 400
  # A part of it is what was asked for.
  part = [f'--task.path={path}', '--task.split=tail']
  assert _evaluate(ran, 'base/0', *part) == 0
  out, error = capsys.readouterr()
  assert json.loads(out)['tokens'] == 40
  assert 'validation: 40 characters, the end of other.txt' in error
  assert printed['val_loss'] != ran.records['base', 0]['metrics']['val_loss']
  path.write_text('naïve ' * 100)
  assert _evaluate(ran, 'base/0', f'--task.path={path}') == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert "'ï'" in error


@pytest.mark.parametrize(
  ('target', 'message'),
  [('nowhere', 'must be WORKDIR:TRIAL'), ('nowhere:x', 'is not a working')],
)
def test_evaluate_flag_refuses(
  target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
  argv = ['launch.py', f'--evaluate={target}']
  assert cli.main(argv, flags.FlagValues(), '') == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1


# Initial values. --------------------------------------------------------------


@pytest.mark.slow
def test_init_from_starts_from_exactly_these_parameters(
  ran: Ran, tmp_path: pathlib.Path
) -> None:
  source = ran.records['base', 1]
  alone = ('--only=base', '--seeds=2')
  still = {
    'init_from': f'{ran.workdir}:{source["trial"]}',
    # Where all is held nothing moves, decay included.
    'freeze': '.',
    'steps': '3',
  }
  assert _launch(tmp_path / 'new', *_flags(ran.text, still), *alone) == 0
  records = _records(tmp_path / 'new')
  assert len(records) == 2
  for record in records.values():
    assert record['digest'] == source['digest']
    assert record['trial'] != source['trial']
    assert record['metrics']['val_loss'] == source['metrics']['val_loss']


@pytest.mark.slow
def test_init_from_goes_on_from_there(ran: Ran, tmp_path: pathlib.Path) -> None:
  alone = ('--only=base', '--seeds=1')
  more = {'init_from': f'{ran.workdir}:base/1', 'steps': '5'}
  assert _launch(tmp_path / 'new', *_flags(ran.text, more), *alone) == 0
  (record,) = _records(tmp_path / 'new').values()
  # A model from scratch is near log 4 after 5 steps of warm-up.
  source = ran.records['base', 1]['metrics']['train_loss']
  assert record['metrics']['train_loss'] == pytest.approx(source, abs=0.2)
  assert record['digest'] != ran.records['base', 1]['digest']


@pytest.mark.slow
@pytest.mark.parametrize(
  ('text', 'more', 'message'),
  [
    (TEXT, {'d_model': '32'}, r'blocks/\S+ is \(2, .* there and .* in row'),
    (TEXT, {'num_layers': '3'}, r'blocks/\S+ is \(2, .* there and \(3, '),
    (TEXT, {'position': 'rope'}, r'position/table is .* there and absent in'),
    (TEXT, {'use_bias': 'true'}, r'bias is absent there and '),
    (TEXT + 'x', {}, 'has another vocabulary than --task: '),
    (TEXT, {'task.tokenizer': 'byte'}, 'has another vocabulary than --task: '),
    (
      TEXT,
      {'task': 'mlm'},
      'text, whose special tokens are not those of --task=mlm: .*reserve_mask',
    ),
  ],
  ids=['width', 'depth', 'position', 'bias', 'characters', 'bytes', 'mask'],
)
def test_init_from_refuses_what_does_not_fit(
  ran: Ran,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  text: str,
  more: Mapping[str, str],
  message: str,
) -> None:
  path = tmp_path / 'text.txt'
  path.write_text(text)
  given = {'init_from': f'{ran.workdir}:base/1'} | dict(more)
  assert _launch(tmp_path / 'new', *_flags(path, given)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('launch.py: --init_from=')
  assert re.search(message, line), line
  assert not (tmp_path / 'new').exists()


def test_init_from_minds_the_vocabulary_of_each_row(
  ran: Ran, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Another text with as many characters fits, and means something else."""
  other = tmp_path / 'other.txt'
  other.write_text(TEXT.translate(str.maketrans('abcd', 'wxyz')))
  given = _flags(ran.text, {'init_from': f'{ran.workdir}:base/1'})
  row = f'--ablate=task.path={other}'
  assert _launch(tmp_path / 'new', *given, row) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'has another vocabulary than --task: ' in line
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ('nowhere', 'must be WORKDIR:TRIAL'),
    ('nowhere:base/0', 'is not a working directory'),
    ('{}:base/9', 'has no trial base/9'),
  ],
)
def test_init_from_refuses_what_is_not_there(
  ran: Ran,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  value: str,
  message: str,
) -> None:
  given = {'init_from': value.format(ran.workdir)}
  assert _launch(tmp_path / 'new', *_flags(ran.text, given)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('launch.py: --init_from=')
  assert message in line
  assert not (tmp_path / 'new').exists()


# Vocabularies that were learned. ----------------------------------------------

WORDED = {'task.tokenizer': 'bpe', 'task.tokenizer.vocab_size': '270'}
WORDS = 'the cat sat on the mat and the dog sat on the log ' * 12


@pytest.fixture(scope='module')
def worded(tmp_path_factory: pytest.TempPathFactory) -> Ran:
  """One trial; its pieces are learned."""
  folder = tmp_path_factory.mktemp('worded')
  text, workdir = folder / 'text.txt', folder / 'run'
  text.write_text(WORDS)
  alone = ('--seeds=1', '--only=base')
  assert _launch(workdir, *_flags(text, WORDED), *alone) == 0
  return Ran(workdir, text, _records(workdir))


def _refuse(*arguments: object) -> None:
  raise AssertionError(f'trained again: {arguments[0]}')


@pytest.mark.slow
def test_resuming_trains_no_tokenizer(
  worded: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
  before = dict(worded.records)
  # As where the cache is gone and another release would learn other pieces.
  monkeypatch.setattr(windows, 'train_once', _refuse)
  loaded = load(worded.workdir, 'base/0')
  assert loaded.vocabulary.size == 270
  assert loaded.vocabulary.decode(loaded.encode('the cat')) == 'the cat'
  metrics = before['base', 0]['metrics']
  assert loaded.evaluate()['val_loss'] == metrics['val_loss']
  more = _flags(worded.text, WORDED)
  more += ['--seeds=2', '--only=base']
  assert _launch(worded.workdir, *more) == 0
  records = _records(worded.workdir)
  assert records['base', 0] == before['base', 0]
  second = load(worded.workdir, 'base/1')
  assert second.vocabulary == loaded.vocabulary


@pytest.mark.slow
def test_a_default_directory_goes_on_with_its_vocabulary(
  worded: Ran, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  argv = ['launch.py', *_flags(worded.text, WORDED), '--seeds=1', '--only=base']
  assert cli.main(argv, flags.FlagValues(), '') == 0
  (workdir,) = (tmp_path / 'runs').iterdir()
  before = _records(workdir)
  other = Bpe(vocab_size=270, min_count=30).train(lambda: [WORDS])
  monkeypatch.setattr(windows, 'train_once', lambda *_: other)
  assert cli.main(argv, flags.FlagValues(), '') == 0
  assert _records(workdir) == before
  assert load(workdir, 'base/0').vocabulary != other
  # A fresh directory begins with what is learned now: another trial.
  assert _launch(tmp_path / 'new', *argv[1:]) == 0
  records = _records(tmp_path / 'new')
  assert records['base', 0]['trial'] != before['base', 0]['trial']


@pytest.mark.slow
def test_a_vocabulary_that_was_changed_is_refused(
  worded: Ran, tmp_path: pathlib.Path
) -> None:
  shutil.copytree(worded.workdir, tmp_path / 'copy')
  trial = worded.records['base', 0]['trial']
  path = tmp_path / 'copy' / 'runs' / trial / 'vocabulary.json'
  path.write_text(path.read_text().replace('the', 'eht', 1))
  with pytest.raises(DataError, match=r'vocabulary.json: is not the vocabul'):
    load(tmp_path / 'copy', 'base/0')
  path.unlink()
  with pytest.raises(DataError, match=r'vocabulary.json: cannot be read'):
    load(tmp_path / 'copy', 'base/0')
