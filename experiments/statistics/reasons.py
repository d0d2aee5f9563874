"""The reasons of a verdict in words, and the limits of its seeds."""

from collections.abc import Sequence

import numpy as np

from experiments.statistics import divergence
from experiments.statistics.decision import (
  TWO_MODES,
  Decision,
  Verdict,
  modes_floor,
)


def few_pairs(decision: Decision, row: int) -> bool:
  """Returns whether too few pairs are left to rule out two modes of noise."""
  paired = decision.paired
  return bool(
    paired.seeds[row] >= TWO_MODES and 1 < paired.pairs[row] < TWO_MODES
  )


def tests(diverged: bool) -> str:
  """Names the tests by which rows are called better or worse."""
  if not diverged:
    return 'paired t test'
  return (
    "paired t test over the seeds that ended in both and Fisher's exact test "
    'of how many diverged, twice the smaller p where both can tell'
  )


def assumption_text(seeds: Sequence[int | None]) -> str:
  """Returns the assumption of verdicts over few seeds, or ''."""
  if not any(n and 1 < n < TWO_MODES for n in seeds):
    return ''
  return (
    f' With fewer than {TWO_MODES} seeds, verdicts assume noise with one mode.'
  )


def reason(decision: Decision, row: int, verdict: Verdict, alpha: float) -> str:
  """Returns the remarks on the verdict of a row, or ''."""
  paired = decision.paired
  lost, base_lost = paired.row_diverged[row], paired.base_diverged[row]
  near = bool(decision.p_tost_holm[row] <= alpha)
  found = []
  if paired.constant[row] and paired.pairs[row] > 1:
    found.append(
      'the same numbers as the base'
      if paired.same[row]
      else 'the same difference in every seed, so a sign test'
    )
  if verdict in ('better', 'worse'):
    if decision.p_diverged[row] < np.nan_to_num(decision.p_paired[row], nan=1):
      found.append(_counts_and_p(decision, row))
      if decision.mean_way[row] * decision.called[row] < 0:
        other = 'better' if verdict == 'worse' else 'worse'
        found.append(
          f'{other} over the seeds of both: p {decision.p_paired[row]:.2g}'
        )
    if decision.within[row]:
      found.append('yet within the margin')
  elif verdict == 'undecided':
    if paired.pairs[row] < 2:
      advice = ': no test, a verdict needs at least 2 (--seeds=5)'
      found.append(
        f'{paired.pairs[row] or "no"} paired seed'
        f'{advice if paired.seeds[row] == paired.pairs[row] == 1 else ""}'
      )
    if decision.opposed[row]:
      found.append(_opposed(decision, row))
    elif near and paired.one_sided[row]:
      side = _one_sided(decision, row, here=bool(lost >= base_lost))
      found.append(f'not called equivalent: {side}')
    if lost != base_lost and not decision.opposed[row]:
      found.append(_too_few_seeds(decision, row, alpha))
    floor = modes_floor(paired.pairs)[row]
    if few_pairs(decision, row) and decision.p_paired[row] == floor:
      found.append(
        f'of {paired.pairs[row]} pairs p is at least {floor:.2g}: the noise '
        'may have two modes'
      )
  return '; '.join(found)


def _opposed(decision: Decision, row: int) -> str:
  """Returns why a row is not called if its tests point in opposite ways."""
  p_paired, p_diverged = decision.p_paired[row], decision.p_diverged[row]
  both = f'(t test: p {p_paired:.2g}; of divergence: p {p_diverged:.2g})'
  better, worse = 'better', 'worse'
  if decision.mean_way[row] > 0:
    better, worse = worse, better
  if p_paired <= p_diverged:
    side = _one_sided(decision, row, here=better == 'better')
    return f'not called {better}: {side} {both}'
  return (
    f'not called {worse}: {_counts(decision, row)}, yet {better} over the '
    f'seeds of both {both}'
  )


def _one_sided(decision: Decision, row: int, here: bool) -> str:
  """Says how many seeds diverged in the row only, or in the base only."""
  paired = decision.paired
  more = paired.row_diverged[row] - paired.base_diverged[row]
  seeds = (paired.one_sided[row] + (more if here else -more)) // 2
  where = 'here, not with the base' if here else 'with the base, not here'
  return f'{seeds} seed{"s" * int(seeds > 1)} diverged {where}'


def _counts(decision: Decision, row: int) -> str:
  paired = decision.paired
  seeds = paired.seeds[row]
  return (
    f'{paired.row_diverged[row]} of {seeds} diverged, '
    f'base {paired.base_diverged[row]} of {seeds}'
  )


def _counts_and_p(decision: Decision, row: int) -> str:
  return f'{_counts(decision, row)}: p {decision.p_diverged[row]:.2g}'


def _too_few_seeds(decision: Decision, row: int, alpha: float) -> str:
  """Says that the seeds are too few for the divergences, and how many do."""
  paired = decision.paired
  rows = len(decision.p)
  level = alpha / rows / (2 if paired.pairs[row] else 1)
  needed = divergence.seeds_needed(
    int(paired.row_diverged[row]),
    int(paired.base_diverged[row]),
    int(paired.seeds[row]),
    level,
  )
  need = 'one row needs' if rows == 1 else f'{rows} rows need'
  advice = '' if needed is None else f', so {needed} seeds'
  return f'{_counts_and_p(decision, row)}; {need} {level:.2g}{advice}'
