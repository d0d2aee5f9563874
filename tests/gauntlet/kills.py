"""Kills a run again and again, lets it end, and compares what it came to."""

import random
import shutil
from pathlib import Path

from gauntlet.outcome import Attempt, Outcome
from gauntlet.whole import LAYOUTS, argv, changed, finish, said, whole
from helpers.processes import MOMENTS, Late, kill_at, outcome, start

LIFE = 5  # kills of one working directory, at most
# How a run is killed: by itself, or with workers, in the layout of each.
OPTIONS = {'alone': '--workers=1', 'workers': '--workers=2'}


def attempts(home: Path) -> Attempt:
  """Returns the attempts: a life of a run each."""

  def attempt(seed: int) -> Outcome:
    draw = random.Random(f'kills:{seed}')
    layout = draw.choice([*LAYOUTS])
    expected = outcome(whole(home, layout))
    workdir = home / 'killed'
    shutil.rmtree(workdir, ignore_errors=True)
    words = argv(home, OPTIONS[layout], f'--workdir={workdir}')
    near: list[str] = []
    for moment in draw.choices([*MOMENTS], k=draw.randint(1, LIFE)):
      try:
        if not kill_at(start(words), workdir, moment, draw):
          break  # it had ended
      except Late:
        pass  # and was killed then
      except AssertionError as e:
        why = ' '.join(str(e).split())[-300:]
        return Outcome('traceback', f'{layout}, {moment}: {why}', len(near) + 1)
      near.append(moment)
    done = finish(words)
    about = f'{layout}, killed near {", ".join(near)}: '
    if done[0] != 0 or 'Traceback' in done[2]:
      return Outcome('traceback', about + said(done), len(near))
    if why := changed(workdir, expected):
      return Outcome('silent', about + why, len(near))
    kind = 'found' if done[2] else 'harmless'
    return Outcome(kind, about + said(done), len(near))

  return attempt
