"""The bench: its flags, turns, exponents, and what a failing peer costs."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.bench import __main__ as command
from experiments.bench import flags, lanes, processes, scaling, step
from experiments.bench.bench import Bench, Training, made_characters, made_words
from experiments.bench.processes import Failure, Finished
from experiments.bench.report import Report
from experiments.bench.sizes import CPU, GPU, QUICK
from helpers.source import ROOT

PEER = """
import json, sys
given = dict(word[2:].split('=') for word in sys.argv[1:])
with open({log!r}, 'a') as f:
  print({name!r}, file=f)
print('a line of another kind')
print(json.dumps(dict(peer={name!r}, ms_per_step={ms}, given=given)))
"""
BREAKS = """
import pathlib, sys
log = pathlib.Path({log!r})
log.write_text(log.read_text() + 'breaks\\n')
sys.exit('no {{memory}}' if log.read_text().count('breaks') == 2 else 0)
"""
WAITS = """
import os, pathlib, time
pathlib.Path({log!r}).write_text(str(os.getpid()))
time.sleep(300)
"""


def asked(*words: str) -> flags.Asked:
  return flags.parse(words)


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    ('--rouds=3', '--rouds=3: is not a flag; did you mean rounds?'),
    ('--round=3', '--round=3: is not a flag; did you mean rounds?'),
    ('step', 'step: is not a flag'),
    ('--rounds=0', '--rounds=0: must be a number from 1 to 1000'),
    ('--rounds=two', '--rounds=two: must be'),
    ('--only=stp', '--only=stp: must be one of step|lanes|'),
    ('--only=multi30k', '--only=multi30k: must be one of step|'),
    ('--peer=', '--peer=: must name a script'),
    ('--peer="a', 'No closing quotation'),
    ('--json=absent/x.json', '--json=absent/x.json: must be a file in a'),
    ('--task.path=absent', '--task.path=absent: is no file'),
    ('--quick=3', 'quick'),
    ('--rounds', 'rounds'),
  ],
)
def test_bad_flags_are_one_line(
  words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert command.main([words]) == 2
  out, err = capsys.readouterr()
  assert not out
  assert err.startswith('python -m experiments.bench: ')
  assert len(err.splitlines()) == 1
  assert said in err


def test_flags() -> None:
  usual = asked()
  assert (usual.parts, usual.rounds, usual.sizes) == (CPU.parts, 9, CPU)
  assert asked('--quick').sizes is QUICK
  assert asked('--quick', '--rounds=4').rounds == 4
  assert asked('--gpu').parts == GPU.parts
  assert asked('--gpu', '--only=multi30k').parts == ('multi30k',)
  # In the order of worth, whatever the order of the flags.
  assert asked('--only=start', '--only=step').parts == ('step', 'start')
  assert asked('--only=step', '--profile').parts == ('step', 'profile')


def test_peers_are_words_as_a_shell_reads_them() -> None:
  found = asked('--peer=a.py --scan', '--peer="my python" b.py').peers
  assert found == (
    (sys.executable, 'a.py', '--scan'),
    ('my python', 'b.py'),
  )


@pytest.mark.parametrize('power', [-1.0, 0.0, 1.0, 2.0])
def test_exponents_are_those_of_least_squares(power: float) -> None:
  sizes = [1, 2, 4, 8]
  exact = [3 * size**power for size in sizes]
  assert math.isclose(
    scaling.exponent(sizes, exact), power, rel_tol=1e-12, abs_tol=1e-12
  )
  # Factors whose logarithms are orthogonal to 1 and to those of the sizes.
  wobble = (1.1, 1 / 1.1, 1 / 1.1, 1.1)
  noisy = [x * f for x, f in zip(exact, wobble, strict=True)]
  assert math.isclose(
    scaling.exponent(sizes, noisy), power, rel_tol=1e-12, abs_tol=1e-12
  )
  # And those of another slope, which the fit must see.
  steep = [x * size for x, size in zip(exact, sizes, strict=True)]
  assert scaling.exponent(sizes, steep) > power + 0.9


def test_one_size_has_no_exponent() -> None:
  with pytest.raises(ValueError, match='two sizes'):
    scaling.exponent([4, 4], [1.0, 2.0])


def script(folder: Path, name: str, text: str, ms: float = 0.0) -> str:
  """Writes a script that adds its name to a log, and returns its path."""
  path = folder / f'{name}.py'
  log = str(folder / 'log')
  path.write_text(text.format(log=log, name=name, ms=ms))
  return str(path)


def log(folder: Path) -> list[str]:
  return (folder / 'log').read_text().split()


def test_contestants_take_turns_and_one_that_fails_stops_no_other(
  tmp_path: Path,
) -> None:
  texts = {'a': PEER, 'b': BREAKS, 'c': PEER}
  paths = {name: script(tmp_path, name, text) for name, text in texts.items()}

  def run(path: str) -> Callable[[], Finished]:
    words = [sys.executable, path]
    return lambda: processes.run(words, {}, None).checked()

  said: list[tuple[str, str]] = []
  found = step.alternate(
    {name: run(path) for name, path in paths.items()},
    3,
    lambda name, why: said.append((name, str(why))),
  )
  assert log(tmp_path) == ['a', 'breaks', 'c', 'a', 'breaks', 'c', 'a', 'c']
  assert {name: len(runs) for name, runs in found.items()} == {
    'a': 3,
    'b': 1,
    'c': 3,
  }
  assert said == [('b', 'exit code 1: no {memory}')]


class Fake(Bench):
  """A bench whose trainings take no time."""

  def look(self) -> None:
    self._machine = {
      'platform': 'cpu',
      'device': '1 x cpu',
      'matrix_flops_per_second': {'float32': 1e6},
    }

  def train(self, flags: Mapping[str, str]) -> Training:
    alone = flags.get('lanes') == 'shared:1'
    with (self.folder / 'log').open('a') as f:
      print('one' if alone else 'chosen', file=f)
    count = 4 * int(flags.get('seeds', '1')) if 'sweep' in flags else 1
    steps = int(flags['steps'])
    clock = {'seconds': 9.0, 'compile_seconds': 1.0}
    clock['train_seconds'] = (0.004 if alone else 0.002) * steps
    trial = {'steps': steps, 'clock': clock, 'flops_per_token': 5}
    trials = [{**trial, 'trial': str(n), 'digest': 'd'} for n in range(count)]
    done = Finished(0, '', '', 20.0 if alone else 10.0, 1.0, 7)
    return Training(done, trials, 'shared:1' if alone else 'devices:2', 7)


def fake(folder: Path, *words: str) -> Fake:
  given = asked('--quick', f'--json={folder}/figures.json', *words)
  bench = Fake(given, folder, Report(given.json, ['bench']))
  bench.look()
  return bench


def rows(folder: Path, part: str) -> list[dict[str, Any]]:
  figures = json.loads((folder / 'figures.json').read_text())
  return figures['parts'][part]['rows']


def test_a_step_is_timed_beside_its_peers(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  peer = script(tmp_path, 'slow', PEER, 6.0)
  silent = script(tmp_path, 'silent', 'print(1)')
  peers = [f'--peer={path}' for path in (peer, silent, tmp_path / 'absent.py')]
  bench = fake(tmp_path, *peers, '--peer=no-such-program', '--rounds=2')
  step.measure(bench)
  out, err = capsys.readouterr()
  turns = ['chosen', 'one', 'slow']
  assert log(tmp_path) == [*turns, *turns]
  chosen, one, slow = rows(tmp_path, 'step')
  assert slow['what'] == 'slow'
  assert [row['median_ms'] for row in (chosen, one, slow)] == [2.0, 4.0, 6.0]
  assert slow['ablax_speed'] == 3.0
  assert slow['ablax_one_device_speed'] == 1.5
  assert one['ablax_speed'] == 2.0
  # 32 tokens in 2 ms, 5 FLOPs each, of 1e6 a second.
  assert chosen['tokens_per_second'] == 16_000
  assert chosen['utilisation'] == 0.08
  # One line for each peer that came to nothing.
  assert len(err.splitlines()) == 3
  for said in ('silent.py', 'absent.py', 'no-such-program'):
    assert said in err
  assert max(map(len, out.splitlines())) <= 80
  assert '3.00x' in out


def test_a_peer_gets_the_shape(tmp_path: Path) -> None:
  words = (sys.executable, script(tmp_path, 'peer', PEER))
  shape = CPU.shapes[0]
  done = fake(tmp_path).peer([*words, *shape.peer_flags])
  assert done.lines()[-1]['given'] == {
    'vocab': '65',
    'layers': '4',
    'heads': '4',
    'width': '128',
    'length': '64',
    'batch': '12',
    'steps': '200',
  }


def test_a_table_of_trials_says_what_repeats(tmp_path: Path) -> None:
  bench = fake(tmp_path, f'--peer={script(tmp_path, "peer", PEER, 1.0)}')
  lanes.measure(bench)
  chosen, again, alone, peer = rows(tmp_path, 'lanes')
  assert (alone['slower'], chosen['trials']) == (2.0, 4)
  assert peer['step_seconds'] == 4 * 20 * 1e-3
  assert (chosen['repeats'], again['repeats']) == (None, 'all')
  assert lanes.repeats({'a': 'x', 'b': 'y'}, {'a': 'x', 'b': 'z'}) == '1 of 2'


def test_no_accelerator_is_said_in_one_line(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  machine = json.dumps({'platform': 'cpu', 'device': '2 x cpu'})
  done = Finished(0, f'{machine}\n', '', 1.0, 1.0, 1)
  monkeypatch.setattr(Bench, 'inside', lambda *_: done)
  assert command.main(['--gpu']) == 2
  err = capsys.readouterr().err
  assert 'there is none here (2 x cpu): add --quick' in err
  assert len(err.splitlines()) == 1


def test_what_runs_out_of_time_is_killed_and_nothing_more_begins() -> None:
  words = [
    sys.executable,
    '-c',
    'import time\nprint("{}", flush=True)\ntime.sleep(60)',
  ]
  begun = time.monotonic()
  done = processes.run(words, {}, None, deadline=begun + 1.0)
  assert time.monotonic() - begun < 30
  assert done.lines() == [{}]  # what it said before is kept
  with pytest.raises(Failure, match='the time was up'):
    done.checked()
  with pytest.raises(Failure, match='not measured'):
    processes.run(words, {}, None, deadline=begun)


@pytest.mark.slow
def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
  """Killed as by a queue: the child, in a session of its own, ends too."""
  child = script(tmp_path, 'child', WAITS)
  code = (
    'import signal, sys\nfrom experiments.bench import __main__, processes\n'
    '__main__.Bench.look = lambda _: processes.run(\n'
    f'  [sys.executable, {child!r}], {{}}, None)\n'
    'sys.exit(__main__.main([]))'
  )
  parent = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  while not (tmp_path / 'log').exists() or not log(tmp_path):
    time.sleep(0.01)
  parent.terminate()
  assert parent.wait(60) == 130
  with pytest.raises(ProcessLookupError):
    os.kill(int(log(tmp_path)[0]), 0)


def test_a_process_is_measured_until_it_did_what_is_waited_for(
  tmp_path: Path,
) -> None:
  path = tmp_path / 'done'
  words = [
    sys.executable,
    '-c',
    'import pathlib, sys, time\n'
    'x = bytearray(50_000_000)\npathlib.Path(sys.argv[1]).touch()\n'
    'time.sleep(60)',
    str(path),
  ]
  done = processes.run(words, {}, None, until=path.exists)
  assert done.checked().seconds < 30
  assert done.peak_bytes > 50_000_000
  assert done.cpu_seconds > 0
  with pytest.raises(Failure, match='ended before'):
    processes.run([sys.executable, '-c', ''], {}, None, until=lambda: False)


def test_made_texts_have_the_symbols_that_were_asked_for() -> None:
  text = made_characters(10_000)
  assert len({*text}) == 65
  assert len(text) == 10_000
  assert len({*made_words(40).split()}) == 40


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
  """One part as a user runs it: its table, and its file."""
  path = tmp_path / 'figures.json'
  words = [f'--json={path}', '--quick', '--only=attention']
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.bench', *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert 'Attention alone' in done.stdout
  assert max(map(len, done.stdout.splitlines())) <= 80
  figures = json.loads(path.read_text())
  assert figures['environment']['packages']['jax']
  assert figures['matrix_flops_per_second']['float32'] > 0
  found = {(r['of'], r['what']) for r in figures['parts']['attention']['rows']}
  assert {what for _, what in found} >= {'reference', 'chunked'}
  assert len({of for of, _ in found}) == len(QUICK.attention_lengths)
