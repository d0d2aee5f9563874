"""The engine: runs the trials of a plan and keeps the record."""

import contextlib
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

from experiments import advice, comparisons
from experiments.attention import backends
from experiments.environment import environment
from experiments.flagfile import sealed
from experiments.inputs import Planned
from experiments.layout import mend_layout
from experiments.ledger import Ledger, locked, write_owner
from experiments.local import Local
from experiments.merge import merge, sources
from experiments.other_code import Survey, check_code, prepare, survey
from experiments.plan import Plan, check_writable
from experiments.pool import Pool
from experiments.recorder import Recorder
from experiments.results import finish
from experiments.shown import command_line
from experiments.signals import stop_signals
from experiments.stages import size, stages
from experiments.streams import complain, say
from experiments.terminal import Terminal
from train.files import remove_temporaries, write_atomically, write_json
from train.trial import Interrupted


class Stop:
  """Remembers SIGINT, SIGTERM, SIGHUP; a second one ends the process at once.

  But for SIGHUP: a terminal that closes may send it twice, and a service that
  is stopped after SIGTERM.
  """

  def __init__(self) -> None:
    self.signal: int | None = None
    self._before = {
      number: signal.signal(number, self._handle) for number in stop_signals()
    }

  def restore(self) -> None:
    """Puts back what handled the signals before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.signal = self.signal or number
    again = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
    signal.signal(number, again)

  def requested(self) -> bool:
    """Returns whether to stop at the next chunk."""
    return self.signal is not None


class Execution(Protocol):
  """Where trials run: in this process, or in others."""

  def all_of(self, stage: Sequence[Planned]) -> None:
    """Runs trials until each is on the record; those that are, are done.

    Raises:
      Interrupted: it was asked to stop.
      OSError: the disk is full or cannot be written.
    """
    ...

  def close(self) -> None:
    """Waits until all is saved."""
    ...


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
    # What is wrong with what is there is said before all else.
    found = _surveyed(plan)
    check_code(plan, found)
    check_writable(plan.workdir)
    with locked(plan.workdir) as lock:
      return _execute(plan, command, flag_lines, stop, lock, found)
  except Interrupted:
    assert stop.signal is not None
    say('')
    say(f'saved; to go on: {command_line(command)}')
    return 128 + stop.signal
  except OSError as e:
    what, fix = advice.of_the_disk(plan.workdir, e)
    complain(f'{what}; {fix}, then: {command_line(command)}')
    return 1
  finally:
    stop.restore()


def _surveyed(plan: Plan) -> Survey:
  """Returns what of the trials is of other code, here and to be merged."""
  if plan.command.merge is None:
    return survey(plan, ())
  with sources(plan) as found:
    return survey(plan, found)


def _execute(
  plan: Plan,
  command: Sequence[str],
  flag_lines: Sequence[str],
  stop: Stop,
  lock: int,
  found: Survey,
) -> int:
  """Runs and reports a plan whose directory is held; returns the exit code."""
  for folder in (plan.workdir, plan.workdir / 'runs'):
    remove_temporaries(folder)
  _describe(plan, flag_lines)
  ledger = Ledger(plan.workdir)
  layout = mend_layout(plan.workdir)
  trials, steps = size(plan)
  with Terminal(trials, steps) as terminal:
    damage = [*ledger.damage, *comparisons.damage(plan.workdir)]
    for line in [*damage, *([layout] if layout else [])]:
      terminal.warn(line)
    recorder = Recorder(ledger, terminal, plan.metric, plan.devices)
    prepare(plan, found, ledger, terminal)
    if plan.command.merge is not None:
      merge(plan, ledger, terminal)
    else:
      about = plan, recorder, terminal, stop.requested
      alone = plan.command.workers == 1
      run: Execution = Local(*about) if alone else Pool(*about, lock)
      with contextlib.closing(run):
        for stage in stages(plan, ledger):
          if stage.title:
            terminal.say(f'{stage.title}: {len(stage.trials)} trials')
          run.all_of(stage.trials)
    finish(plan, ledger, command, terminal)
  every = [p for stage in stages(plan, ledger) for p in stage.trials]
  return 0 if all(map(recorder.settled, every)) else 1


def _describe(plan: Plan, flag_lines: Sequence[str]) -> None:
  """Writes what the run is: flags, configuration, environment."""
  workdir = plan.workdir
  write_owner(workdir, plan.owner)
  write_atomically(workdir / 'flags.txt', sealed(flag_lines, plan.data.digest))
  about = environment(plan.devices)
  about['data'] = {plan.data.description: plan.data.digest}
  about['attention'] = {
    name: backend.tag
    for name, backend in backends(plan.base, plan.rows).items()
  }
  write_json(workdir / 'environment.json', about)
