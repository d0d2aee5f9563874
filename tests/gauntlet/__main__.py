"""Tries to mislead Ablax, or to lose work, and counts how often that succeeds.

  python -m tests.gauntlet [--kills=100] [--flips=1000] [--commands=2000]
    [--faults=90] [--simulations=10000] [--seconds=S] [--seed=N]
  python -m tests.gauntlet --only=flips:17    one attempt, by its seed

Of each number 0 leaves that part out; --simulations is of tables a setting.
With --seconds each part has a share of them, and says how much of what was
asked it did.  Exit code 1: something was silent, or ended in a traceback.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # as pytest has it

import session.environment  # noqa: E402, F401  # sets it, before jax
from gauntlet import drive, outcome  # noqa: E402  # after the path is set

# The cheap ones first: what is left of --seconds goes to those that follow.
SIZES = {'commands': 60, 'flips': 30, 'faults': 3, 'kills': 4}
TABLES = 200  # of each setting that is simulated


def main() -> int:
  """Runs what is asked; returns the exit code."""
  asked = _parsed()
  if asked.child is not None:
    drive.serve(asked.child, asked.home, asked.simulations)
    return 0
  counts = {'simulations': drive.settings() if asked.simulations else 0}
  counts |= {name: vars(asked)[name] for name in SIZES}
  if asked.only:
    part, _, seed = asked.only.partition(':')
    seeds = {part: range(int(seed), int(seed) + 1)}
  else:
    first = asked.seed * drive.SEEDS
    seeds = {part: range(first, first + n) for part, n in counts.items() if n}
  tallies = drive.run(seeds, asked.simulations, asked.seconds)
  print(*outcome.table(tallies), sep='\n')
  return int(any(tally.bad for tally in tallies))


def _parsed() -> argparse.Namespace:
  """Returns the flags."""
  parser = argparse.ArgumentParser(
    prog='python -m tests.gauntlet',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, size in SIZES.items():
    parser.add_argument(f'--{name}', type=int, default=size)
  parser.add_argument('--simulations', type=int, default=TABLES)
  parser.add_argument('--seconds', type=float)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--only', help='PART:SEED, as a finding says it')
  # What starts itself to try what may end a process.
  for name, kind in (('child', str), ('home', Path)):
    parser.add_argument(f'--{name}', type=kind, help=argparse.SUPPRESS)
  return parser.parse_args()


if __name__ == '__main__':
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  sys.exit(main())
