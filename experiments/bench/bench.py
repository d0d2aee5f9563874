"""What all parts share: the machine, and how they run commands on it."""

import json
import os
import pathlib
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.bench import processes
from experiments.bench.flags import Asked
from experiments.bench.processes import Failure, Finished
from experiments.bench.report import Report
from experiments.messages.errors import CommandError
from experiments.messages.streams import warn
from train.files.durable import read_intact_lines

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch.py'
INSIDE = 'experiments.bench.inside'
TEXT_SIZE = 1_115_394  # characters of a made text, those of tiny Shakespeare
SHAKESPEARE = 'tinyshakespeare.txt'


class Training(NamedTuple):
  """A command that trained.

  Attributes:
    finished: the command.
    trials: records of its trials.
    lanes: the layout that it took.
    peak_bytes: most memory, of the device if it is an accelerator.
  """

  finished: Finished
  trials: list[dict[str, Any]]
  lanes: str
  peak_bytes: int

  def clock(self, name: str) -> float:
    """Returns seconds of all trials together, by their purpose."""
    return sum(trial['clock'][name] for trial in self.trials)


class Bench:
  """A bench that runs, in a folder of its own.

  Attributes:
    asked: the flags.
    folder: for what commands leave, and their cache, which begins empty.
    report: keeps the figures.
    deadline: when all ends, by `time.monotonic`; None is never.
    env: changes of the environment of what runs.
  """

  def __init__(
    self,
    asked: Asked,
    folder: pathlib.Path,
    report: Report,
    seconds: float | None = None,
  ):
    self.asked, self.folder, self.report = asked, folder, report
    self.deadline = None if seconds is None else time.monotonic() + seconds
    self.env: dict[str, str | None] = {'ABLAX_CACHE': str(folder / 'cache')}
    if asked.quick:
      self.env['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
    else:  # what was compiled before would be no time to compile
      self.env['JAX_COMPILATION_CACHE_DIR'] = None
    self._number = 0
    self._machine: dict[str, Any] = {}

  @property
  def on_cpu(self) -> bool:
    """Returns whether there is no accelerator."""
    return self._machine['platform'] == 'cpu'

  def peak(self, dtype: str) -> float:
    """Returns the measured FLOP/s of a large matrix product."""
    return self._machine['matrix_flops_per_second'][dtype]

  def look(self) -> None:
    """Measures the machine.

    Raises:
      CommandError: it cannot be measured, or --gpu finds no accelerator.
    """
    try:
      done = self.inside('machine', {'quick': self.asked.quick}).checked()
      (self._machine,) = done.lines()
    except (Failure, ValueError) as e:
      raise CommandError(f'the machine cannot be measured: {e}') from None
    if self.asked.gpu and self.on_cpu and not self.asked.quick:
      raise CommandError(
        f'--gpu: there is none here ({self._machine["device"]}): add --quick '
        'to try it at tiny sizes'
      )
    self.report.about(self._machine)

  def new_path(self, name: str) -> pathlib.Path:
    """Returns a path in the folder that was not used before."""
    self._number += 1
    return self.folder / f'{name}-{self._number}'

  def run(
    self,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    until: Callable[[], bool] | None = None,
  ) -> Finished:
    """Runs a command of this project."""
    more = {**self.env, **(env or {})}
    return processes.run(command, more, ROOT, self.deadline, until)

  def inside(self, name: str, given: Mapping[str, Any]) -> Finished:
    """Runs one of the measurements of `inside`, which prints lines of JSON."""
    warn(f'{name} ...')
    words = [sys.executable, '-m', INSIDE, name, json.dumps(given)]
    return self.run(words)

  def peer(self, words: Sequence[str]) -> Finished:
    """Runs a peer where the bench was started, as its path may be relative."""
    return processes.run(words, {}, None, self.deadline).checked()

  def train(self, flags: Mapping[str, str]) -> Training:
    """Trains by `launch.py`, as a user would, in a folder of its own.

    On an accelerator the same file runs within a process that then says how
    much memory the device had in use.
    """
    workdir = self.new_path('run')
    given = {**flags, 'workdir': str(workdir)}
    words = [f'--{name}={value}' for name, value in given.items()]
    if self.on_cpu and not self.asked.gpu:
      done = self.run([sys.executable, str(LAUNCH), *words]).checked()
      peak = done.peak_bytes
    else:
      whole = {'path': str(LAUNCH), 'words': words}
      done = self.inside('launch', whole).checked()
      peak = done.lines()[-1]['peak_bytes'] or done.peak_bytes
    trials = read_intact_lines(workdir / 'trials.jsonl')
    return Training(done, trials, trials_layout(workdir), peak)

  def text(self, vocabulary: int) -> dict[str, str]:
    """Returns the flags of a text with so many symbols.

    Of 65 it is the text that was asked for, or tiny Shakespeare if ABLAX_DATA
    has it, in characters; of 256 the same in bytes; else it is made up, in
    words.
    """
    if vocabulary in (65, 256):
      kind = 'char' if vocabulary == 65 else 'byte'
      return {'task.path': str(self._prose()), 'task.tokenizer': kind}
    path = self.folder / f'words-{vocabulary}.txt'
    if not path.exists():
      path.write_text(made_words(vocabulary))
    return {
      'task.path': str(path),
      'task.tokenizer': 'word',
      'task.tokenizer.vocab_size': str(vocabulary),
    }

  def _prose(self) -> pathlib.Path:
    there = pathlib.Path(os.environ.get('ABLAX_DATA', '')) / SHAKESPEARE
    if self.asked.text is not None:
      return self.asked.text
    if 'ABLAX_DATA' in os.environ and there.is_file():
      return there.resolve()
    path = self.folder / 'characters.txt'
    if not path.exists():
      path.write_text(made_characters(TEXT_SIZE))
    return path


def trials_layout(workdir: pathlib.Path) -> str:
  """Returns the layout that the trials of a working directory took."""
  return json.loads((workdir / 'layout.json').read_text())['lanes']


def made_characters(count: int) -> str:
  """Returns a text of 65 characters, the same each time.

  Nothing in it repeats: a text whose end is in its beginning is refused.
  """
  letters = b'\n' + bytes(range(33, 97))
  table = bytes(letters[n % len(letters)] for n in range(256))
  return random.Random(0).randbytes(count).translate(table).decode()


def made_words(vocabulary: int) -> str:
  """Returns a text of so many words, the same each time."""
  words = [f'w{n}' for n in range(vocabulary)]
  draw = random.Random(0)
  lines = [' '.join(draw.choices(words, k=64)) for _ in range(8192)]
  return '\n'.join([' '.join(words), *lines])
