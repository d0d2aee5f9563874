"""Rules on published values as pure functions, and the verdicts they reach."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pytest

from experiments.claims.metrics import Measurements, TrialMetrics, trial_metrics
from experiments.claims.published import (
  Control,
  PublishedValue,
  decide_control,
  decide_published,
  deviations,
)
from experiments.claims.rule import Claim, Rule, RuleResult
from experiments.claims.rules import Near, Ordering, Ratio, Within, above, below
from experiments.claims.shape import CurveShape, Drop, Level
from experiments.experiment import BASE, Experiment, Row
from experiments.questions.discover import discover
from experiments.results.claim_results import published_verdicts
from train.config.config import Config
from train.core.metric import LAYER
from train.flags.schema import override

NAN = math.nan
Values = Mapping[str, Sequence[float | None]]


def trial(
  value: float | None,
  series: Sequence[tuple[float, float]] = (),
  positions: Sequence[float] = (),
  final: Mapping[str, float] | None = None,
) -> TrialMetrics:
  """Returns the figures of a seed; NaN is one that diverged."""
  lost = value is not None and math.isnan(value)
  own = {} if value is None or lost else {'loss': value}
  return TrialMetrics(
    lost, {**own, **(final or {})}, {'loss': series}, positions, 1.0, 7
  )


def of(values: Values) -> Measurements:
  """Returns measurements: by row, a figure a seed; None was not run."""
  return Measurements(
    {
      row: {n: trial(x) for n, x in enumerate(column) if x is not None}
      for row, column in values.items()
    }
  )


def find(rule: Rule, values: Values, value: float | None = None) -> RuleResult:
  return rule.find(of(values), Claim('a', 'loss', value))


# One figure. ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('rule', 'values', 'holds'),
  [
    (Within(1.0, 2.0), [1.0, 2.0], True),
    (Within(1.0, 2.0), [2.0, 2.0], True),  # ends belong to it
    (Within(1.0, 2.0), [2.0, 2.1], False),
    (Within(1.0, 2.0), [1.5], True),
    (Within(1.0, 2.0), [], None),
    (Within(1.0, 2.0), [None, 1.5], True),
    (Within(1.0, 2.0), [1.5, NAN], False),  # one diverged
    (Within(1.0, 2.0), [math.inf], False),
    (below(1.0), [0.5, 1.5], True),
    (below(1.0), [0.5, 1.6], False),
    (below(1.0), [-math.inf], False),
    (above(1.0), [0.5, 1.5], True),
    (above(1.0), [0.5, 1.4], False),
    (above(0.9, share=1.0), [0.9, 1.0], True),
    (above(0.9, share=1.0), [0.89, 99.0], False),
    (above(0.9, share=0.8), [1.0, 1.0, 1.0, 1.0, 0.0], True),
    (above(0.9, share=0.8), [1.0, 1.0, 1.0, 1.0, NAN], True),
    (above(0.9, share=0.8), [1.0, 1.0, 1.0, 0.0, 0.0], False),
    (above(0.9, share=0.8), [], None),
    (Within(1.0, 2.0, median=True), [0.0, 1.5, 9.0], True),
    (Within(1.0, 2.0, median=True), [0.0, 0.5, 1.5], False),
    (Within(1.0, 2.0, median=True), [1.0, 1.5, NAN], False),
    (Within(1.0, 2.0, median=True), [], None),
  ],
)
def test_a_figure_lies_in_an_interval(
  rule: Rule, values: Sequence[float | None], holds: bool | None
) -> None:
  assert find(rule, {'a': values}).holds is holds


def test_more_than_half_of_the_seeds_is_a_direction() -> None:
  rule = above(0.9, share=0.8)
  for good, direction in ((0, False), (2, False), (3, True), (4, True)):
    values = [1.0] * good + [0.0] * (5 - good)
    assert find(rule, {'a': values}).direction is direction


def test_the_mean_has_its_interval() -> None:
  found = find(Within(-9.0, 9.0), {'a': [1.0, 2.0, 3.0]})
  assert (found.measured, found.seeds, found.why) == (2.0, 3, '')
  assert found.interval is not None
  # Standard deviation 1: half = t(0.975, 2) / sqrt(3).
  assert found.interval.half() == pytest.approx(2.484138, abs=1e-6)
  near = find(Within(1.9, 2.1), {'a': [1.0, 2.0, 3.0]})
  assert near.holds
  assert near.why == 'the interval reaches beyond what is accepted'
  assert find(Within(0, 4), {'a': [1.0]}).interval is None


def test_differences_are_of_the_seeds_of_both() -> None:
  rule = Within(0.4, 0.6, minus='b')
  values = {'a': [1.5, 2.5, 9.0], 'b': [1.0, 2.0, None]}
  assert find(rule, values).measured == 0.5
  assert find(rule, values).seeds == 2
  assert find(rule, values).holds
  far = find(rule, {'a': [1.1], 'b': [1.0]})
  assert (far.holds, far.direction) == (False, True)
  wrong = find(rule, {'a': [1.0], 'b': [1.0]})
  assert (wrong.holds, wrong.direction) == (False, False)
  assert find(rule, {'a': [1.0]}).holds is None
  assert not find(Within(-1, 1, minus='b'), {'a': [3.0], 'b': [1.0]}).direction


def test_near_is_near_what_is_stated() -> None:
  assert find(Near(0.1), {'a': [3.25]}, 3.3).holds
  assert not find(Near(0.1), {'a': [3.5]}, 3.3).holds
  assert find(Near(0.1), {'a': [3.25]}).holds is None


# Rows. ------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('rule', 'values', 'holds', 'direction'),
  [
    (Ordering(('a', 'b')), {'a': [1, 2], 'b': [2, 3]}, True, True),
    (Ordering(('a', 'b')), {'a': [2, 3], 'b': [1, 2]}, False, False),
    # Equal rows are in no order.
    (Ordering(('a', 'b')), {'a': [1, 2], 'b': [1, 2]}, False, False),
    (Ordering(('a', 'b'), gap=0.5), {'a': [1], 'b': [1.4]}, False, True),
    (Ordering(('a', 'b'), gap=0.5), {'a': [1], 'b': [1.6]}, True, True),
    # The mean is on the right side; noise could have made it.
    (Ordering(('a', 'b')), {'a': [1, 1], 'b': [1.1, 3]}, False, True),
    (Ordering(('a', 'b'), share=1.0), {'a': [1, 1], 'b': [1.1, 3]}, True, True),
    (Ordering(('a', 'b'), share=1.0), {'a': [1, 1], 'b': [1, 3]}, False, False),
    # b may fall behind by so much.
    (Ordering(('a', 'b'), gap=-0.1), {'a': [1, 2], 'b': [1, 2]}, True, True),
    (Ordering(('a', 'b'), gap=-0.1), {'a': [1], 'b': [0.8]}, False, False),
    (Ordering(('a', 'b', 'c')), {'a': [1], 'b': [2], 'c': [3]}, True, True),
    (Ordering(('a', 'b', 'c')), {'a': [1], 'b': [3], 'c': [2]}, False, False),
    (Ordering(('a', 'b', 'c')), {'a': [1], 'b': [2]}, None, False),
    (Ordering(('a', 'b')), {'a': [1, None], 'b': [None, 2]}, None, False),
    (Ordering(('a', 'b')), {'a': [1, NAN], 'b': [2, 3]}, False, False),
    (Ratio('b', 1.2, 1.3), {'a': [1.25, 2.5], 'b': [1, 2]}, True, True),
    (Ratio('b', 1.2, 1.3), {'a': [1.1], 'b': [1]}, False, True),
    (Ratio('b', 1.2, 1.3), {'a': [1], 'b': [1]}, False, False),
    (Ratio('b', high=0.5), {'a': [0.7], 'b': [1]}, False, True),
    (Ratio('b', 0.9, 1.1), {'a': [1], 'b': [1]}, True, False),
    (Ratio('b', 1.2, 1.3), {'a': [1], 'b': [0]}, False, False),
    (Ratio('b', 1.2, 1.3), {'a': [1]}, None, False),
  ],
)
def test_rows_are_compared(
  rule: Rule, values: Values, holds: bool | None, direction: bool
) -> None:
  found = find(rule, values)
  assert (found.holds, found.direction) == (holds, direction)


def test_the_bound_of_an_ordering_by_hand() -> None:
  # Differences 1, 2, 3: bound 2 - t(0.95, 2) / sqrt(3) = 2 - 1.68587.
  values = {'a': [0.0, 0.0, 0.0], 'b': [1.0, 2.0, 3.0]}
  assert find(Ordering(('a', 'b'), gap=0.314), values).holds
  assert not find(Ordering(('a', 'b'), gap=0.315), values).holds


# Over time. -------------------------------------------------------------------

# Of Edelman et al. 2024: in-context unigrams first, then a drop to bigrams.
PLATEAU, BAYES = 0.579, 0.509
HEADS = CurveShape(
  (
    Level(PLATEAU - 0.015, PLATEAU + 0.015, before=600),
    Drop(0.03, within=600),
  )
)


def curve(values: Sequence[float]) -> list[tuple[float, float]]:
  """Returns evaluations every 200 steps."""
  return [(200 * (n + 1), x) for n, x in enumerate(values)]


def over_time(rule: Rule, *curves: Sequence[tuple[float, float]]) -> RuleResult:
  rows = {'a': {n: trial(0.5, own) for n, own in enumerate(curves)}}
  return rule.find(Measurements(rows), Claim('a', 'loss', None))


@pytest.mark.parametrize(
  ('values', 'holds'),
  [
    ([0.5691, 0.5651, 0.5533, 0.5242, 0.5208, 0.5195], True),
    ([0.6931, 0.58, 0.575, 0.54, 0.53], True),
    ([0.6931, 0.58, 0.579, 0.578, 0.577, 0.576], False),  # one layer
    ([0.6931, 0.53, 0.52, 0.52], False),  # no plateau
    ([0.69, 0.65, 0.62, 0.58, 0.53], False),  # a plateau too late
    ([0.58, 0.575, 0.57, 0.565, 0.56, 0.55, 0.54], False),  # it creeps
    ([0.52, 0.52, 0.58, 0.58], False),  # the other way round
    ([0.58], False),
  ],
)
def test_a_plateau_then_a_drop(values: Sequence[float], holds: bool) -> None:
  assert over_time(HEADS, curve(values)).holds is holds


def test_shapes_are_counted_by_seed() -> None:
  good, bad = curve([0.58, 0.54]), curve([0.58, 0.58])
  assert over_time(HEADS, good, good, good).holds
  most = over_time(HEADS, good, good, bad)
  assert (most.holds, most.direction) == (False, True)
  assert most.why == '2 of 3 seeds pass'
  assert not over_time(HEADS, good, bad, bad).direction
  share = dataclasses.replace(HEADS, share=2 / 3)
  assert over_time(share, good, good, bad).holds
  assert over_time(HEADS, [], []).holds is None
  lost = Measurements({'a': {0: trial(NAN, good), 1: trial(0.5, good)}})
  found = share.find(lost, Claim('a', 'loss', None))
  assert (found.holds, found.seeds) == (False, 2)  # 1 of 2 is less than 2/3


def test_a_level_may_have_to_last() -> None:
  flat = Level(0.0, 1.0, after=200, before=600, always=True)
  late = Level(2.0, after=1000, before=1000)
  assert over_time(CurveShape((flat, late)), curve([1, 0, 1, 9, 2])).holds
  assert not over_time(CurveShape((flat, late)), curve([1, 9, 1, 9, 2])).holds
  assert not over_time(CurveShape((flat, late)), curve([1, 0, 1, 9, 1])).holds
  # A rise is a drop below 0.
  assert over_time(
    CurveShape((Level(high=0), Drop(-2))), curve([0, 1, 2])
  ).holds


def test_shapes_are_seen_along_layers_and_positions() -> None:
  rank = {'rank@0': 1.0, 'rank@1': 0.1, 'rank@2': 1e-5, 'rank': 9.0}
  found = Measurements({'a': {0: trial(1.0, (), [3.0, 2.0], rank)}})
  collapse = CurveShape((Level(high=1e-4, after=2, before=2),), along='layer')
  assert collapse.find(found, Claim('a', 'rank', None)).holds
  assert collapse.find(found, Claim('a', 'other', None)).holds is None
  falls = CurveShape((Level(2.5, 3.5, before=0), Drop(1.0)), along='position')
  assert falls.find(found, Claim('a', 'loss', None)).holds


def test_figures_are_those_of_the_record() -> None:
  record = {
    'status': 'ok',
    'metrics': {'val_loss': 1.0, 'best_step': 4, 'lost': None},
    'clock': {'seconds': 2.0},
    'parameters': 7,
    'by_position': {'loss': [4.0, None, 0.0], 'targets': [2.0, 1.0, 0.0]},
  }
  lines = [{'step': 2, 'loss': 3.0}, {'step': 2, 'val_loss': 2.0}]
  lines += [{'step': 4, 'val_loss': 1.0, 'lost': None}]
  own = trial_metrics(record, lines)
  assert own.series['val_loss'] == [(2, 2.0), (4, 1.0)]
  assert own.positions == [2.0, None, None]
  found = Measurements({'a': {0: own}})
  assert found.along('step', 'a', 'val_loss') == {0: [(2.0, 2.0), (4.0, 1.0)]}
  assert found.along('position', 'a', 'val_loss') == {0: [(0.0, 2.0)]}
  assert found.along('step', 'a', 'lost') == {}
  assert math.isnan(found.final('a', 'lost')[0])
  assert found.final('a', 'val_accuracy') == {}


# Verdicts. --------------------------------------------------------------------

TARGET = PublishedValue(
  'a', 'loss', 1.88, 'a paper', Within(1.8, 1.92), seeds=3
)


@pytest.mark.parametrize(
  ('target', 'values', 'scale', 'verdict', 'why'),
  [
    (TARGET, [1.9, 1.89, 1.88], [], 'reproduced', ''),
    (TARGET, [1.9, 1.89, 1.88], ['less data'], 'direction only', 'less data'),
    (TARGET, [1.9, 1.9], [], 'direction only', 'seeds: 2 of 3'),
    (TARGET, [2.0, 2.0, 2.0], [], 'not reproduced', ''),
    (TARGET, [2.0, 2.0, 2.0], ['less data'], 'not reproduced', 'less data'),
    (TARGET, [], [], 'not run', 'no seed has the figure'),
    (
      dataclasses.replace(TARGET, beyond='300M parameters'),
      [1.9, 1.89, 1.88],
      [],
      'direction only',
      'published at another scale: 300M parameters',
    ),
    (
      dataclasses.replace(TARGET, verified=False),
      [1.9, 1.89, 1.88],
      [],
      'direction only',
      'reported (unverified): decides nothing',
    ),
    # At a reduced scale, less is asked for; never at the full one.
    (
      dataclasses.replace(TARGET, reduced=below(2.1)),
      [2.0, 2.0, 2.0],
      ['less data'],
      'direction only',
      'less data',
    ),
    (
      dataclasses.replace(TARGET, reduced=below(2.1)),
      [2.0, 2.0, 2.0],
      [],
      'not reproduced',
      '',
    ),
    # The right side of 0, and not as far.
    (
      dataclasses.replace(TARGET, rule=above(0.5, minus='b'), seeds=1),
      [1.2],
      [],
      'direction only',
      '',
    ),
  ],
)
def test_verdicts(
  target: PublishedValue,
  values: Sequence[float],
  scale: Sequence[str],
  verdict: str,
  why: str,
) -> None:
  judged = decide_published(target, of({'a': values, 'b': [1.0] * 3}), scale)
  assert (judged.verdict, judged.why) == (verdict, why)


class Broken(Rule):
  """A rule that cannot read what is there."""

  def accepts(self, claim: Claim) -> str:
    return 'nothing'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    raise KeyError(claim.metric)


def test_a_rule_that_is_broken_loses_no_table() -> None:
  target = dataclasses.replace(TARGET, rule=Broken())
  judged = decide_published(target, of({'a': [1.9] * 3}))
  assert judged.verdict == 'not run'
  assert judged.why == "its rule is broken: KeyError: 'loss'"
  control = Control('a', {}, 'loss', Broken(), 'nothing')
  assert decide_control(control, of({'a': [1.0]}), None).verdict == 'not run'


def test_controls_pass_or_fail() -> None:
  control = Control('a', {}, 'loss', Near(0.1), 'entropy', seeds=2)
  found = of({'a': [3.3, 3.4]})
  assert decide_control(control, found, 3.3).verdict == 'pass'
  assert decide_control(control, found, 3.0).verdict == 'fail'
  assert decide_control(control, of({}), 3.0).verdict == 'not run'
  shorter = decide_control(control, found, 3.0, ['other steps'])
  assert (shorter.verdict, shorter.why) == ('undecided', 'other steps')
  assert decide_control(control, found, 3.3, ['other steps']).verdict == 'pass'


def test_what_differs_from_the_published_scale_is_said() -> None:
  stated = override(Config(), {'steps': '2000'})
  here = override(Config(), {'seed': '7', 'position': 'rope'})
  assert deviations(stated, stated, 'it') == []
  assert deviations(stated, override(stated, {'seed': '7'}), 'it') == []
  (said,) = deviations(stated, here, 'it')
  assert said.startswith('not it: steps=600 for 2000, position=rope for ')


def experiment(
  rows: Sequence[Row] = (Row(BASE, {}), Row('wide', {'d_model': '128'})),
  targets: Sequence[PublishedValue] = (),
  controls: Sequence[Control] = (),
) -> Experiment:
  return dataclasses.replace(
    discover()['train'],
    rows=tuple(rows),
    published=tuple(targets),
    controls=tuple(controls),
  )


def test_the_scale_is_that_of_every_row_that_is_read() -> None:
  rule = Ordering(('wide', BASE))
  asked = experiment(targets=[PublishedValue(BASE, 'loss', None, 'a', rule)])
  configs = {BASE: Config(), 'wide': override(Config(), {'d_model': '128'})}
  found = of({BASE: [2.0, 2.0], 'wide': [1.0, 1.1]})
  (judged,) = published_verdicts(asked, configs, found)
  assert judged.verdict == 'reproduced'
  configs['wide'] = override(configs['wide'], {'steps': '5'})
  (judged,) = published_verdicts(asked, configs, found)
  assert judged.verdict == 'direction only'
  assert judged.why == 'not the published scale: steps=5 for 600'
  (smoke,) = published_verdicts(asked, configs, found, smoke=True)
  assert (smoke.verdict, smoke.measured) == ('not run', None)
  # Of a table of other rows, a claim is silent that these cannot judge.
  other = {BASE: Config(), 'steps=5': Config()}
  assert published_verdicts(asked, other, of({BASE: [1.0]})) == ()
  (alone,) = published_verdicts(asked, {BASE: Config()}, of({BASE: [1.0]}))
  assert alone.verdict == 'not run'


def test_an_experiment_is_checked() -> None:
  with pytest.raises(ValueError, match="row 'base' occurs twice"):
    experiment(controls=[Control(BASE, {}, 'loss', Near(1), 'a')])
  with pytest.raises(ValueError, match="reads row 'x', which is not there"):
    experiment(targets=[PublishedValue('x', 'loss', None, 'a', Near(1))])
  with pytest.raises(ValueError, match="reads row 'x', which is not there"):
    experiment(targets=[PublishedValue(BASE, 'loss', None, 'a', Ratio('x'))])
  with pytest.raises(ValueError, match=r"is not a flag.*in row 'wide'"):
    experiment([Row('wide', {'d_modell': '1'})]).check()
  bad = PublishedValue(BASE, 'loss', None, 'a', Near(1), scale={'steps': 'x'})
  with pytest.raises(ValueError, match='must be an integer'):
    experiment(targets=[bad]).check()


def test_every_experiment_is_sound() -> None:
  for own in discover().values():
    own.check()
    for target in own.published:
      metric, _, _ = target.metric.partition(LAYER)
      assert metric in own.base.measured
      assert target.rule.accepts(Claim(target.row, target.metric, 1.0))


def test_what_is_accepted_is_said() -> None:
  claim = Claim('a', 'loss', 1.0)
  for rule, words in (
    (Within(1.8, 1.92), '1.8 to 1.92'),
    (below(2.0), 'at most 2'),
    (above(0.05, minus='b', share=1.0), 'at least 0.05 more than b in every'),
    (above(0.9, share=0.8), 'at least 0.9 in 80 % of seeds'),
    (Within(1.0, 2.0, median=True), '1 to 2 in the median'),
    (Ordering(('a', 'b'), 0.1), 'a < b, each by more than 0.1'),
    (Ratio('b', 1.2, 1.3), '1.2 to 1.3 times b'),
    (Near(0.1), 'within 0.1 of it'),
    (HEADS, 'over steps: 0.564 to 0.594 by 600, then falls by 0.03 within 600'),
    (
      CurveShape((Level(0, 1, 3, 3, always=True), Drop(-1))),
      '0 to 1 always at 3, ',
    ),
  ):
    assert words in rule.accepts(claim)
