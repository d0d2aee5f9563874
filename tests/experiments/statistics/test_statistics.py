"""Verdicts against SciPy and statsmodels, and by simulation of whole tables."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import power as sm_power
from statsmodels.stats import weightstats

from experiments.statistics import decision, power
from experiments.statistics import verdicts as statistics

Values = Sequence[float]
_NAN = math.nan


def _seeds(values: Values) -> dict[int, float]:
  return dict(enumerate(map(float, values)))


def _compare(
  base: Values,
  row: Values,
  margin: float = 0.0,
  rows: int = 1,
  lower_is_better: bool = True,
  withheld: Mapping[str, str] | None = None,
) -> statistics.Comparison:
  """Returns the first of `rows` rows, of which the others say nothing."""
  others = {f'other{i}': {} for i in range(rows - 1)}
  return statistics.compare(
    _seeds(base),
    {'row': _seeds(row), **others},
    margin,
    lower_is_better=lower_is_better,
    withheld=withheld,
  )['row']


def _tables(
  shifts: Values, tables: int, margin: float, seeds: int = 5
) -> decision.Decision:
  """Returns tables of rows at `shifts` from the base, in units of its noise.

  The rows share the base, as they do in a table, so that their differences are
  correlated (1/2).
  """
  noise = np.random.default_rng(7).normal(size=(tables, len(shifts) + 1, seeds))
  noise[:, 1:] += np.asarray(shifts)[:, None]
  return decision.decide(noise[:, 0], noise[:, 1:], margin, 0.05)


def _error(share: float, tables: int) -> float:
  """Returns three binomial standard errors."""
  return 3 * math.sqrt(share * (1 - share) / tables)


# Against other implementations. -----------------------------------------------


def test_tests_equal_those_of_scipy_and_statsmodels() -> None:
  rng = np.random.default_rng(0)
  for n in (2, 3, 5, 20):
    base, row = rng.normal(2.3, 0.1, (2, n))
    row += 0.05
    found = _compare(base, row, margin=0.08)
    expected = stats.ttest_rel(row, base)
    tost = weightstats.ttost_paired(row, base, -0.08, 0.08)
    interval = expected.confidence_interval(0.95)
    assert found.pairs == n
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.p_tost == pytest.approx(tost[0], rel=1e-9)
    assert found.difference == pytest.approx(np.mean(row - base), rel=1e-12)
    assert found.sd == pytest.approx(np.std(row - base, ddof=1), rel=1e-12)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(interval.low, rel=1e-9)
    assert found.interval.high == pytest.approx(interval.high, rel=1e-9)


def test_a_row_by_hand() -> None:
  found = _compare([0, 10, 20], [1.0, 11.1, 20.9])
  # Differences 1, 1.1, 0.9: t = 1 / (0.1 / sqrt(3)) with 2 degrees of freedom,
  # for which P(|t| > x) = 1 - x / sqrt(2 + x^2).
  t = 10 * math.sqrt(3)
  assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
  assert found.verdict == 'worse'


def test_holm_by_hand() -> None:
  rng = np.random.default_rng(1)
  base = _seeds(rng.normal(size=8))
  rows = {
    f'{shift}': {s: v + shift + rng.normal() for s, v in base.items()}
    for shift in (0.0, 2.0, 0.7)
  }
  found = statistics.compare(base, rows, margin=0.1)
  p = sorted(c.p for c in found.values() if c.p is not None)
  steps = [3 * p[0], 2 * p[1], p[2]]
  running = [min(1.0, max(steps[: i + 1])) for i in range(3)]
  assert sorted(
    c.p_holm for c in found.values() if c.p_holm is not None
  ) == pytest.approx(running)


def test_rows_without_a_test_count_in_the_correction() -> None:
  found = _compare([0, 1, 2], [1.0, 2.1, 2.9], margin=5, rows=6)
  assert found.p is not None
  assert found.p_tost is not None
  assert found.p_holm == pytest.approx(6 * found.p)
  assert found.p_tost_holm == pytest.approx(6 * found.p_tost)


@pytest.mark.parametrize('n', [2, 3, 5, 10, 40])
def test_power_is_that_of_the_noncentral_t(n: int) -> None:
  for level in (0.05, 0.05 / 6):
    size = power.smallest_effect(n, level)
    critical = stats.t.isf(level / 2, n - 1)
    found = stats.nct.sf(critical, n - 1, size * math.sqrt(n))
    assert found == pytest.approx(power.POWER, abs=1e-9)
    # statsmodels counts the wrong tail too, next to nothing from 5 seeds on; of
    # 3 seeds at 0.05 / 6 it says 6.85, which finds but 69 %.
    if n >= 5:
      solved = sm_power.TTestPower().solve_power(
        nobs=n, alpha=level, power=power.POWER
      )
      assert size == pytest.approx(solved, rel=1e-5)


@pytest.mark.parametrize('n', [2, 3, 5])
def test_power_by_simulation(n: int) -> None:
  size = power.smallest_effect(n, 0.05 / 6)
  draws = np.random.default_rng(3).normal(size, 1, (50_000, n))
  found = np.mean(
    stats.ttest_1samp(draws, 0, axis=1, alternative='greater').pvalue
    <= 0.05 / 12
  )
  assert abs(found - power.POWER) <= _error(power.POWER, 50_000)


def test_what_few_seeds_can_see() -> None:
  """The figures of the docstring, and of the README."""
  level = 0.05 / 6
  called = [stats.t.isf(level / 2, n - 1) / math.sqrt(n) for n in (3, 5)]
  assert called == pytest.approx([6.3, 2.2], abs=0.05)
  found = [power.smallest_effect(n, level) for n in (3, 5)]
  assert found == pytest.approx([8.0, 2.8], abs=0.05)


def test_smallest_effect_is_in_the_unit_of_the_metric() -> None:
  found = _compare([0, 1, 2], [1.0, 2.1, 2.9], rows=6)
  assert found.smallest_effect == pytest.approx(
    0.1 * power.smallest_effect(3, 0.05 / 6)
  )


@pytest.mark.parametrize('n', [2, 3, 5, 17, 400])
def test_seeds_needed_inverts_the_smallest_effect(n: int) -> None:
  effect = 0.3 * power.smallest_effect(n, 0.01)
  assert power.seeds_needed(0.3, -effect * 1.0001, alpha=0.01) == n
  assert power.seeds_needed(0.3, effect * 0.9999, alpha=0.01) == n + 1


def test_seeds_needed_at_its_ends() -> None:
  assert power.seeds_needed(0.0, 1.0) == 2
  assert power.seeds_needed(1.0, 1e-12) > 1e6
  with pytest.raises(ValueError, match='effect=0'):
    power.seeds_needed(1.0, 0.0)


# By simulation. ---------------------------------------------------------------


def test_null_rows_are_called_at_most_at_alpha() -> None:
  tables = _tables([0.0] * 6, 1500, margin=0.0)
  called = np.mean((tables.called != 0).any(-1))
  assert called <= 0.05 + _error(0.05, 1500)
  # Nor is the level given away: correlated rows leave about 4 %.
  assert called >= 0.05 / 2
  assert not tables.within.any()


def test_a_shift_of_the_smallest_effect_is_found_with_its_power() -> None:
  # The differences of independent unit noise have the deviation sqrt(2).
  shift = math.sqrt(2) * power.smallest_effect(5, 0.05 / 6)
  tables = _tables([shift] + [0.0] * 5, 1500, margin=0.0)
  # At Holm's first level, as in a table where no other row is called ...
  first = np.mean(tables.p[:, 0] <= 0.05 / 6)
  assert abs(first - power.POWER) <= _error(power.POWER, 1500)
  # ... and at least so often by the verdict, which may profit from the others.
  assert np.mean(tables.called[:, 0] == 1) >= first
  assert not np.any(tables.called[:, 0] == -1)


@pytest.mark.parametrize('others', [[], [8.0, -8.0], [8.0] * 5])
def test_rows_at_the_margin_pass_as_equivalent_at_most_at_alpha(
  others: list[float],
) -> None:
  # The noise is small against the margin of 8: else none would ever pass.
  tables = _tables([8.0, *others], 1000, margin=8.0)
  # The tests alone: that the difference is called first hides most of it.
  passed = np.mean(tables.within.any(-1))
  assert passed <= 0.05 + _error(0.05, 1000)
  assert passed >= 0.05 / 3


def test_equal_rows_are_found_equivalent() -> None:
  tables = _tables([0.0] * 6, 300, margin=8.0)
  assert np.mean(tables.within & (tables.called == 0)) > 0.9


# Corners. ---------------------------------------------------------------------


def test_a_higher_metric_can_be_the_better_one() -> None:
  base, row = [0.5, 0.6, 0.7], [0.61, 0.7, 0.79]
  assert _compare(base, row).verdict == 'worse'
  assert _compare(base, row, lower_is_better=False).verdict == 'better'


def test_a_called_difference_can_lie_within_the_margin() -> None:
  found = _compare([1, 2, 3], [0.9, 1.91, 2.89], margin=1.0)
  assert (found.verdict, found.reason) == ('better', 'yet within the margin')


def test_the_same_numbers_are_equivalent() -> None:
  same = _compare([1.5, 2.5], [1.5, 2.5], margin=0.01)
  assert (same.verdict, same.reason) == (
    'equivalent',
    'the same numbers as the base',
  )
  assert (same.p, same.p_tost, same.smallest_effect) == (1.0, 0.0, None)
  # Up to the rounding of a sum in float32.
  nearly = _compare([1.5, 2.5], [1.5, np.nextafter(np.float32(2.5), 3)], 0.01)
  assert nearly.verdict == 'equivalent'
  assert _compare([0, 0], [0, 0], margin=0.0).verdict == 'undecided'
  assert _compare([0, 0], [0, 0], margin=1e-9).verdict == 'equivalent'


def test_a_constant_difference_is_left_to_the_sign_test() -> None:
  # As of an accuracy over few examples: two seeds must not call it.
  base = np.float32([0.51, 0.53])
  two = _compare(base, base + np.float32(0.01))
  assert (two.p, two.verdict) == (0.5, 'undecided')
  assert two.reason == 'the same difference in every seed, so a sign test'
  assert two.smallest_effect is None
  assert two.interval is not None
  six = _compare(range(6), range(1, 7), margin=3.0)
  assert six.p == stats.binomtest(6, 6).pvalue == 2**-5
  assert six.p_tost == stats.binomtest(6, 6, alternative='greater').pvalue
  assert six.verdict == 'worse'
  assert _compare(range(5), range(1, 6), margin=3.0).verdict == 'equivalent'
  assert _compare(range(5), range(1, 6), margin=1.0).p_tost == 1.0


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    ({}, 'no paired seed'),
    ({7: 1.0}, 'no paired seed'),
    ({1: 1.0}, '1 paired'),
  ],
)
def test_few_pairs_decide_nothing(row: dict[int, float], reason: str) -> None:
  found = statistics.compare(_seeds([1, 2, 3]), {'row': row}, margin=9.0)['row']
  assert found.verdict == 'undecided'
  assert found.reason.startswith(reason)
  assert (found.p, found.p_holm, found.smallest_effect) == (None, None, None)


def test_no_rows() -> None:
  assert statistics.compare({0: 1.0}, {}, margin=1.0) == {}


_BASE = [1.0, 2.0, 3.0, 4.0]
_LOW, _SAME, _HIGH = (
  [x + d + e for x, e in zip(_BASE, (0.1, 0, -0.1, 0), strict=True)]
  for d in (-3, 0, 3)
)


def _lose(values: Values, *seeds: int) -> list[float]:
  return [math.inf if s in seeds else v for s, v in enumerate(values)]


@pytest.mark.parametrize(
  ('base', 'row', 'verdict', 'reason'),
  [
    # A seed that only the row lost must not make it look better ...
    (_BASE, _lose(_LOW, 3), 'undecided', 'not called better: 1 seed diverged'),
    (
      _BASE,
      _lose(_SAME, 3),
      'undecided',
      'not called equivalent: 1 seed diverged',
    ),
    (_BASE, _lose(_HIGH, 3), 'worse', ''),
    # ... nor one that only the base lost make it look worse.
    (_lose(_BASE, 0), _HIGH, 'undecided', 'not called worse: 1 seed diverged'),
    (
      _lose(_BASE, 0),
      _SAME,
      'undecided',
      'not called equivalent: 1 seed diverged',
    ),
    (_lose(_BASE, 0), _LOW, 'better', ''),
    # What both lost says nothing of either.
    (_lose(_BASE, 0), _lose(_LOW, 0), 'better', ''),
    (_lose(_BASE, 0), _lose(_SAME, 0), 'equivalent', ''),
    (
      _lose(_BASE, 0),
      _lose(_LOW, 1),
      'undecided',
      'not called better: 1 seed diverged',
    ),
    (
      _lose(_BASE, 0),
      _lose(_HIGH, 1),
      'undecided',
      'not called worse: 1 seed diverged',
    ),
    # Nothing left to pair.
    (_BASE, [_NAN] * 4, 'worse', '4 of 4 diverged, base 0 of 4: p 0.029'),
    ([_NAN] * 4, _BASE, 'better', '0 of 4 diverged, base 4 of 4: p 0.029'),
    (
      _lose(_BASE, 0),
      [_NAN] * 4,
      'undecided',
      'no paired seed; 4 of 4 diverged, base 1 of 4: p 0.14',
    ),
    ([_NAN] * 4, [_NAN] * 4, 'undecided', 'no paired seed'),
    ([1.0], [_NAN], 'undecided', 'no paired seed'),
    ([1.0], [2.0], 'undecided', '1 paired seed: no test, a verdict needs at '),
    ([1.0, 2.0, _NAN, _NAN], [_NAN, _NAN, 1.0, 2.0], 'undecided', 'no paired'),
    # One pair left, whatever it says.
    (_BASE, _lose(_LOW, 0, 1, 2), 'undecided', '1 paired seed'),
  ],
)
def test_diverged_seeds(
  base: Values, row: Values, verdict: str, reason: str
) -> None:
  found = _compare(base, row, margin=0.5)
  assert found.verdict == verdict
  assert found.reason.startswith(reason)
  assert bool(found.reason) == bool(reason)


def test_a_withheld_verdict_keeps_its_numbers() -> None:
  why = 'best learning rate at the edge of its grid'
  found = _compare(_BASE, _LOW, withheld={'row': why})
  assert (found.verdict, found.reason) == ('undecided', why)
  assert found.p == _compare(_BASE, _LOW).p
  diverged = _compare(_BASE, [_NAN] * 4, withheld={'row': why})
  assert diverged.verdict == 'undecided'
