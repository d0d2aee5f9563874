"""Simulates tables whose truth is known, and counts the verdicts that err.

  python -m tests.simulate --tables=10000 --seed=0

Every table has a base and rows that do not differ from it, by the code that
decides real ones (experiments/statistics/decision.py): who is called better or
worse is called so wrongly. Then every row differs by just the margin: who is
called equivalent is called so wrongly. A rule fails where the lower end of the
exact 99.9 % interval of the share of tables with such a row is above alpha.

`--within` makes the two modes of bimodal noise narrower or wider, and
`--choice` shows instead how two exact tests of the divergences do.
"""

import argparse
import dataclasses
import itertools
import sys
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy import typing as npt
from scipy import special

from experiments.statistics import decision, divergence

ALPHA = 0.05
CONFIDENCE = 0.999
CHANCES = (0.0, 0.1, 0.3, 0.5, 0.8, 0.95)
SEEDS = (2, 3, 4, 5, 10, 20)
ROWS = (1, 4, 20)
WITHIN = 0.5
NOISES = ('normal', 't3', 'bimodal')
_MODES = 1.0  # two, at +-1, equally likely: the worst for a t test
_MARGIN = {'normal': 8.0, 't3': 8.0, 'bimodal': 2 * _MODES}
_CHUNK = 2_000_000  # numbers in memory at once
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is drawn: `chance` is of divergence, the same for base and rows.

  With a `common` cause every run, with chance 1/2, diverges or not as its seed
  does, else by itself. `within` is the standard deviation of each of two modes,
  of which the one is at 1 and the other at -1.
  """

  seeds: int
  rows: int
  noise: str
  chance: float = 0.0
  common: bool = False
  within: float = dataclasses.field(default=WITHIN, repr=False)

  @property
  def trusted(self) -> bool:
    """Whether the rule promises that it errs at most at alpha here."""
    return self.noise != 'bimodal' or self.seeds >= decision.TWO_MODES


@dataclasses.dataclass(frozen=True)
class Found:
  """Of so many tables, those with a wrong call of each kind."""

  setting: Setting
  tables: int
  wrong: int
  wrong_equivalent: int

  @property
  def exceeds(self) -> bool:
    """Whether either share is above alpha beyond chance."""
    most = max(self.wrong, self.wrong_equivalent)
    return lower_end(most, self.tables) > ALPHA

  @property
  def broken(self) -> bool:
    """Whether that is more than the rule promises."""
    return self.exceeds and self.setting.trusted


def lower_end(count: int, of: int) -> float:
  """Returns the lower end of Clopper and Pearson's exact interval."""
  if not count:
    return 0.0
  return float(special.betaincinv(count, of - count + 1, (1 - CONFIDENCE) / 2))


def settings(within: float = WITHIN) -> Iterator[Setting]:
  """Yields every combination; without divergence there is no common cause."""
  for n, rows, kind, chance in itertools.product(SEEDS, ROWS, NOISES, CHANCES):
    for common in (False, True) if chance else (False,):
      yield Setting(n, rows, kind, chance, common, within)


def simulate(setting: Setting, tables: int, seed: int = 0) -> Found:
  """Returns how often tables of a setting err; the same for the same seed."""
  rng = np.random.default_rng([seed, zlib.crc32(repr(setting).encode())])
  margin = _MARGIN[setting.noise]
  at_once = max(1, _CHUNK // ((setting.rows + 1) * setting.seeds))
  wrong = wrong_equivalent = 0
  for start in range(0, tables, at_once):
    shape = (min(at_once, tables - start), setting.rows + 1, setting.seeds)
    values = noise(rng, setting, shape)
    lost = diverged(rng, setting.chance, setting.common, shape)
    base, rows = values[:, 0], values[:, 1:]
    for shift in (0.0, margin):
      found = decision.decide(
        np.where(lost[:, 0], np.inf, base),
        np.where(lost[:, 1:], np.inf, rows + shift),
        margin,
        ALPHA,
      )
      if shift:
        # Called worse first, most of them: what the test of equivalence says
        # by itself is the more severe question.
        wrong_equivalent += int(found.within.any(-1).sum())
      else:
        wrong += int((found.called != 0).any(-1).sum())
  return Found(setting, tables, wrong, wrong_equivalent)


def simulate_all(
  tables: int, seed: int = 0, within: float = WITHIN
) -> list[Found]:
  """Returns what every setting errs; `broken` are those that may not."""
  return [simulate(setting, tables, seed) for setting in settings(within)]


def noise(
  rng: np.random.Generator, setting: Setting, shape: tuple[int, ...]
) -> Floats:
  """Returns the noise of every run."""
  if setting.noise == 't3':
    return rng.standard_t(3, shape)
  if setting.noise == 'bimodal':
    modes = _MODES * (2.0 * rng.integers(0, 2, shape) - 1)
    return modes + setting.within * rng.standard_normal(shape)
  return rng.standard_normal(shape)


def diverged(
  rng: np.random.Generator, chance: float, common: bool, shape: tuple[int, ...]
) -> Bools:
  """Returns which runs diverge, by table, row (the base's first) and seed."""
  own = rng.random(shape) < chance
  if not common:
    return own
  of_seed = rng.random((shape[0], 1, shape[2])) < chance
  return np.where(rng.random(shape) < 0.5, of_seed, own)


def choice(tables: int, seed: int = 0) -> Iterator[str]:
  """Yields how often two tests of divergence call one row, by themselves.

  Fisher's over all seeds and the sign test over those that diverged on one
  side: at equal chances wrongly, at unequal ones rightly.
  """
  yield '| seeds | base | row | cause | Fisher | sign test |'
  yield '| ---: | ---: | ---: | --- | ---: | ---: |'
  pairs = ((0.1, 0.1), (0.3, 0.3), (0.5, 0.5), (0.8, 0.8), (0.0, 0.8))
  for n, (low, high), common in itertools.product(
    (5, 10, 20), (*pairs, (0.1, 0.6)), (False, True)
  ):
    rng = np.random.default_rng([seed, n, int(100 * high), common])
    # One draw against two chances, so that a common cause stays common.
    drawn = rng.random((tables, 2, n))
    if common:
      of_seed = rng.random((tables, 1, n))
      drawn = np.where(rng.random(drawn.shape) < 0.5, of_seed, drawn)
    base, row = drawn[:, 0] < low, drawn[:, 1] < high
    fisher = np.array([divergence.p_values(n, k) for k in range(2 * n + 1)])[
      row.sum(-1) + base.sum(-1), row.sum(-1)
    ]
    alone = (row & ~base).sum(-1), (base & ~row).sum(-1)
    fewer = np.minimum(*alone)
    sign = np.fmin(1.0, 2 * special.bdtr(fewer, alone[0] + alone[1], 0.5))
    shares = (f'{np.mean(p <= ALPHA):.1%}' for p in (fisher, sign))
    cause = 'half common' if common else 'own'
    yield f'| {n} | {low} | {high} | {cause} | {" | ".join(shares)} |'


def report(found: Sequence[Found]) -> Iterator[str]:
  """Yields the worst share by seeds, rows and noise, then what is too much."""
  yield '| seeds | rows | noise | better, worse | where | equivalent | where |'
  yield '| ---: | ---: | --- | ---: | --- | ---: | --- |'
  groups: dict[tuple[int, int, str], list[Found]] = {}
  for one in found:
    of = one.setting
    groups.setdefault((of.seeds, of.rows, of.noise), []).append(one)
  for (seeds, rows, kind), group in groups.items():
    cells = [str(seeds), str(rows), kind]
    for name in ('wrong', 'wrong_equivalent'):
      worst = max(group, key=lambda one: _share(one, name))
      cells += [f'{_share(worst, name):.2%}', _where(worst.setting)]
    yield f'| {" | ".join(cells)} |'
  failed = [one for one in found if one.broken]
  few = sum(one.exceeds and not one.broken for one in found)
  yield ''
  yield (
    f'{len(found)} settings, {sum(one.tables for one in found):,} tables of '
    f'each kind: {len(failed)} above {ALPHA:.0%} where the rule promises not '
    f'to be, {few} with fewer than {decision.TWO_MODES} seeds and two modes.'
  )
  for one in failed:
    yield f'ABOVE: {one}'


def _share(one: Found, name: str) -> float:
  count = one.wrong if name == 'wrong' else one.wrong_equivalent
  return count / one.tables


def _where(setting: Setting) -> str:
  return f'p {setting.chance:g}{", common" if setting.common else ""}'


def main() -> int:
  """Prints the table; 1 if any promise was broken."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--tables', type=int, default=10_000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--within', type=float, default=WITHIN)
  parser.add_argument('--choice', action='store_true')
  asked = parser.parse_args()
  if asked.choice:
    print(*choice(asked.tables, asked.seed), sep='\n')
    return 0
  found = simulate_all(asked.tables, asked.seed, asked.within)
  print(*report(found), sep='\n')
  return any(one.broken for one in found)


if __name__ == '__main__':
  sys.exit(main())
