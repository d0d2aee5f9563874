"""The engine: runs the trials of a plan and keeps the record."""

import collections
import errno
import os
import shlex
import signal
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from experiments.assignment import join
from experiments.cost import cost
from experiments.environment import environment
from experiments.experiment import METRIC
from experiments.inputs import Planned
from experiments.layout import choose, describe_choice, write_choice
from experiments.ledger import Ledger, locked
from experiments.plan import Plan, check_writable, program_key
from experiments.results import finish
from experiments.stages import size, stages
from experiments.terminal import Terminal
from train import loop
from train.files import write_atomically, write_json
from train.parallel import Layout, Shared
from train.schema import to_flags
from train.trial import Hooks, Interrupted, Result, Trial


class Stop:
  """Remembers SIGINT and SIGTERM; a second one ends the process at once."""

  def __init__(self) -> None:
    self.signal: int | None = None
    self._before = {
      number: signal.signal(number, self._handle)
      for number in (signal.SIGINT, signal.SIGTERM)
    }

  def restore(self) -> None:
    """Puts back what handled the signals before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.signal = number
    signal.signal(number, signal.SIG_DFL)

  def requested(self) -> bool:
    """Returns whether to stop at the next chunk."""
    return self.signal is not None


def execute(
  plan: Plan, command: Sequence[str], flag_lines: Sequence[str]
) -> int:
  """Runs what is not finished, writes table and report; returns the exit code.

  Args:
    plan: checked trials.
    command: the words of the command line, for the line that resumes.
    flag_lines: lines of a flag file that replays the command.

  Raises:
    Refused: the directory belongs to something else, or is in use.
  """
  stop = Stop()
  try:
    check_writable(plan.workdir)
    with locked(plan.workdir):
      return _execute(plan, command, flag_lines, stop)
  except Interrupted:
    assert stop.signal is not None
    print(f'\nsaved; to go on: {shlex.join(command)}', flush=True)
    return 128 + stop.signal
  except OSError as e:
    print(
      f'{plan.workdir}: cannot be written ({e}); what was saved '
      f'is kept; make room, then: {shlex.join(command)}',
      file=sys.stderr,
    )
    return 1
  finally:
    stop.restore()


def _execute(
  plan: Plan, command: Sequence[str], flag_lines: Sequence[str], stop: Stop
) -> int:
  """Runs and reports a plan whose directory is held; returns the exit code."""
  _describe(plan, flag_lines)
  ledger = Ledger(plan.workdir)
  trials, steps = size(plan)
  failed = False
  with Terminal(trials, steps) as terminal:
    run = _Run(plan, ledger, terminal, stop)
    for stage in stages(plan, ledger):
      if stage.title:
        terminal.say(f'{stage.title}: {len(stage.trials)} trials')
      failed |= not run.all_of(stage.trials)
    finish(plan, ledger, command, terminal)
  return 1 if failed else 0


def _describe(plan: Plan, flag_lines: Sequence[str]) -> None:
  """Writes what the run is: flags, configuration, environment."""
  workdir = plan.workdir
  write_json(workdir / 'config.json', plan.owner)
  write_atomically(workdir / 'flags.txt', '\n'.join(flag_lines) + '\n')
  about = environment(plan.devices)
  about['data'] = {plan.data.description: plan.data.digest}
  write_json(workdir / 'environment.json', about)


class _Run:
  """The trials of a plan while they run."""

  def __init__(
    self, plan: Plan, ledger: Ledger, terminal: Terminal, stop: Stop
  ):
    self._plan, self._ledger, self._terminal = plan, ledger, terminal
    self._stop = stop
    self._layout: Layout | None = None
    self._by_id: dict[str, Planned] = {}
    self._hooks = Hooks(
      terminal.advance, self._end, terminal.warn, stop.requested
    )

  def all_of(self, stage: Sequence[Planned]) -> bool:
    """Runs what is not settled, those that share a program side by side.

    Returns whether none failed.
    """
    groups: dict[Hashable, list[Planned]] = {}
    self._by_id |= {planned.trial.id: planned for planned in stage}
    for planned in stage:
      if self._settled(planned):
        self._say(planned, 'done before')
      else:
        groups.setdefault(program_key(planned.trial), []).append(planned)
    if groups:
      layout = self._lay_out(max(groups.values(), key=len))
      for group in groups.values():
        self._run(group, layout)
    return all(self._settled(planned) for planned in stage)

  def _settled(self, planned: Planned) -> bool:
    return self._ledger.settled(planned.trial.id, planned.trial.pause)

  def _lay_out(self, group: Sequence[Planned]) -> Layout:
    """Returns the layout of all trials, fixed by the first to run."""
    if self._layout is not None:
      return self._layout
    choice = self._plan.choice
    if choice is None:
      self._terminal.begin('measuring layouts')
      trials = [planned.trial for planned in group]
      choice = choose(trials, self._plan.devices)
    write_choice(self._plan.workdir, choice)
    self._terminal.say(f'layout: {describe_choice(choice)}')
    self._layout = choice.layout
    return self._layout

  def _run(self, group: Sequence[Planned], layout: Layout) -> None:
    """Runs trials side by side; those of a failure, one after another."""
    waiting, begun = collections.deque(group), list[Planned]()

    def take() -> Iterator[Trial]:
      while waiting:
        begun.append(waiting.popleft())
        self._terminal.begin(f'{begun[-1].row} {begun[-1].seed}')
        yield begun[-1].trial

    while waiting:
      if self._stop.requested():
        raise Interrupted
      begun.clear()
      try:
        loop.run(take(), self._plan.options, layout, self._hooks)
      except (Interrupted, OSError):
        raise
      except Exception as e:
        if (problem := _of_the_disk(e)) is not None:
          raise problem from e
        self._after(e, begun)

  def _after(self, error: Exception, begun: Sequence[Planned]) -> None:
    """Records a failure, or finds by running each alone whose it is."""
    if len(begun) == 1:
      self._append(begun[0], {'status': 'failed', 'error': _one_line(error)})
      return
    self._terminal.warn(
      f'{begun[0].row}: {_one_line(error)}: each trial alone now'
    )
    for planned in begun:
      if not self._settled(planned):
        self._run([planned], Shared(self._plan.devices[:1]))

  def _end(self, trial: Trial, result: Result) -> None:
    self._append(self._by_id[trial.id], result._asdict())

  def _append(self, planned: Planned, outcome: Mapping[str, Any]) -> None:
    """Records how a trial ended."""
    config, data = planned.trial.config, planned.trial.data
    record = {
      'row': planned.row,
      'trial': planned.trial.id,
      'seed': planned.seed,
      **outcome,
      'flops_per_token': cost(config, data.vocabulary.size).flops_per_token,
      'config': to_flags(config),
    }
    self._ledger.append(record)
    self._say(planned, _outcome(record))

  def _say(self, planned: Planned, text: str) -> None:
    point = f' {join(planned.point)}' if planned.point else ''
    name = f'{planned.row}{point}, seed {planned.seed}'
    self._terminal.end(planned.stop, f'{name}: {text}')


def _one_line(error: Exception) -> str:
  """Returns the type and the first line of an error."""
  first = str(error).splitlines()[0] if str(error) else ''
  return f'{type(error).__name__}: {first}'[:300]


def _of_the_disk(error: Exception) -> OSError | None:
  """Returns the error of the disk that Orbax wrapped in one of its own."""
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
    if os.strerror(code) in str(error):
      return OSError(code, os.strerror(code))
  return None


def _outcome(record: Mapping[str, Any]) -> str:
  if record['status'] == 'failed':
    return f'failed: {record["error"]}'
  if record['status'] == 'diverged':
    return f'diverged at step {record["metrics"]["diverged_at"]}'
  value, seconds = record['metrics'][METRIC], record['clock']['seconds']
  paused = record['status'] == 'paused'
  at = f' at step {record["steps"]}' if paused else ''
  return f'{METRIC} {value:.4f}{at} in {seconds:.1f} s'
