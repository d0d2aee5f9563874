"""Trained trials as the initial values of others; their vocabularies."""

import pathlib
import re
import shutil
from collections.abc import Mapping

import pytest
from absl import flags

from experiments.cli import main as cli
from helpers.loading import TEXT, Ran, flags_of, launch, records_of
from train.core.errors import DataError
from train.inference.load import load
from train.tasks import windows
from train.text.tokenizer import BpeTokenizer

pytestmark = pytest.mark.usefixtures('quick_compilation')

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
  assert launch(tmp_path / 'new', *flags_of(ran.text, still), *alone) == 0
  records = records_of(tmp_path / 'new')
  assert len(records) == 2
  for record in records.values():
    assert record['digest'] == source['digest']
    assert record['trial'] != source['trial']
    assert record['metrics']['val_loss'] == source['metrics']['val_loss']


@pytest.mark.slow
def test_init_from_goes_on_from_there(ran: Ran, tmp_path: pathlib.Path) -> None:
  alone = ('--only=base', '--seeds=1')
  more = {'init_from': f'{ran.workdir}:base/1', 'steps': '5'}
  assert launch(tmp_path / 'new', *flags_of(ran.text, more), *alone) == 0
  (record,) = records_of(tmp_path / 'new').values()
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
  assert launch(tmp_path / 'new', *flags_of(path, given)) == 2
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
  given = flags_of(ran.text, {'init_from': f'{ran.workdir}:base/1'})
  row = f'--ablate=task.path={other}'
  assert launch(tmp_path / 'new', *given, row) == 2
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
  assert launch(tmp_path / 'new', *flags_of(ran.text, given)) == 2
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
  assert launch(workdir, *flags_of(text, WORDED), *alone) == 0
  return Ran(workdir, text, records_of(workdir))


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
  more = flags_of(worded.text, WORDED)
  more += ['--seeds=2', '--only=base']
  assert launch(worded.workdir, *more) == 0
  records = records_of(worded.workdir)
  assert records['base', 0] == before['base', 0]
  second = load(worded.workdir, 'base/1')
  assert second.vocabulary == loaded.vocabulary


@pytest.mark.slow
def test_a_default_directory_goes_on_with_its_vocabulary(
  worded: Ran, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  argv = [
    'launch.py',
    *flags_of(worded.text, WORDED),
    '--seeds=1',
    '--only=base',
  ]
  assert cli.main(argv, flags.FlagValues(), '') == 0
  (workdir,) = (tmp_path / 'runs').iterdir()
  before = records_of(workdir)
  other = BpeTokenizer(vocab_size=270, min_count=30).train(lambda: [WORDS])
  monkeypatch.setattr(windows, 'train_once', lambda *_: other)
  assert cli.main(argv, flags.FlagValues(), '') == 0
  assert records_of(workdir) == before
  assert load(workdir, 'base/0').vocabulary != other
  # A fresh directory begins with what is learned now: another trial.
  assert launch(tmp_path / 'new', *argv[1:]) == 0
  records = records_of(tmp_path / 'new')
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
