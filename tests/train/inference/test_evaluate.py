"""The flag --evaluate: trained trials, on their text or on another."""

import json
import pathlib

import pytest
from absl import flags

from experiments.cli import main as cli
from helpers.loading import OTHER, ROPE, TEXT, Ran, flags_of, launch, records_of
from train.inference.load import load
from train.tasks.texts.text import Text

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
  few = flags_of(text, {'eval_examples': '1', 'steps': '5'})
  assert launch(tmp_path / 'new', *few, '--only=base', '--seeds=1') == 0
  (record,) = records_of(tmp_path / 'new').values()
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
