"""Published values and controls of an experiment, and their verdicts.

Code alone decides.  The verdict on a published value is `reproduced` if its
rule holds at the scale of the publication; `direction only` if the rule holds
at a reduced scale, or if only the direction of the effect agrees;
`not reproduced`; or `not run`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from experiments.claims.metrics import Measurements
from experiments.claims.rule import Claim, Rule, RuleResult
from experiments.statistics.verdicts import Interval
from train.config.config import Config
from train.flags.schema import changes, to_flags
from train.tasks.base import Data

PublishedVerdict = Literal[
  'reproduced', 'direction only', 'not reproduced', 'not run'
]
ControlVerdict = Literal['pass', 'fail', 'undecided', 'not run']
_MAX_NAMED = 4  # differences of scale that are listed before 'and N more'


@dataclasses.dataclass(frozen=True)
class PublishedValue:
  """A published value, and the rule by which it counts as reproduced.

  Attributes:
    row: the row that the value belongs to.
    metric: the metric that was published.
    value: the published number; None for a claim without a number.
    source: where it was published.
    rule: decides from all metrics of the table.
    scale: flags of the published scale (size, data, steps), on top of those of
      the experiment.  A run with other values is at a reduced scale.
    beyond: differences from the published scale that no flag can remove, in
      words; '' if there are none.
    seeds: the number that the rule needs; with fewer, the scale is reduced.
    reduced: the rule at a reduced scale; None uses `rule`.
    verified: whether the value was checked in its source; if not, the verdict
      is at most 'direction only'.
  """

  row: str
  metric: str
  value: float | None
  source: str
  rule: Rule
  scale: Mapping[str, str] = dataclasses.field(default_factory=dict)
  beyond: str = ''
  seeds: int = 1
  reduced: Rule | None = None
  verified: bool = True

  @property
  def rows(self) -> tuple[str, ...]:
    """Returns the rows that the rules read."""
    others = self.reduced.others if self.reduced else ()
    return tuple(dict.fromkeys((self.row, *self.rule.others, *others)))


@dataclasses.dataclass(frozen=True)
class Control:
  """A row whose outcome is known, which shows that the table can be trusted.

  It is reported apart from the rows that are compared, and does not affect
  their verdicts.

  Attributes:
    row: its name, which no other row has.
    changes: flags that it changes in the base.
    metric: the metric that the rule reads.
    rule: the outcome that it must have.
    about: why it must have this outcome, and the source of the number.
    expected: computes the number that it must reach from its configuration and
      data; None if the rule needs no number.
    seeds: how many seeds of the experiment it runs.
  """

  row: str
  changes: Mapping[str, str]
  metric: str
  rule: Rule
  about: str
  expected: Callable[[Config, Data], float] | None = None
  seeds: int = 1


@dataclasses.dataclass(frozen=True)
class ClaimVerdict:
  """The verdict on a published value or a control, with the measured value.

  Attributes:
    row: the row that was measured.
    metric: the metric that was compared.
    value: the published or expected number, if there is one.
    source: of that number.
    accepts: the rule in words.
    verdict: the decision.
    measured: the mean that was compared, if the rule compares a mean.
    interval: confidence interval of that mean.
    seeds: number of seeds that were compared.
    why: why the verdict is not better, and other remarks; '' if there are none.
  """

  row: str
  metric: str
  value: float | None
  source: str
  accepts: str
  verdict: PublishedVerdict | ControlVerdict
  measured: float | None = None
  interval: Interval | None = None
  seeds: int = 0
  why: str = ''


def decide_published(
  target: PublishedValue, found: Measurements, reduced: Sequence[str] = ()
) -> ClaimVerdict:
  """Returns the verdict on a published value.

  Args:
    target: the published value.
    found: all metrics of the table.
    reduced: differences from the published scale, in words; if there are any,
      the verdict is at most 'direction only'.
  """
  claim = Claim(target.row, target.metric, target.value)
  why = list(reduced)
  if not target.verified:
    why.append('reported (unverified): decides nothing')
  if target.beyond:
    why.append(f'published at another scale: {target.beyond}')
  finding = _apply(target.rule, found, claim)
  if 0 < finding.seeds < target.seeds:
    why.append(f'seeds: {finding.seeds} of {target.seeds}')
  rule = target.rule
  if why and target.reduced is not None:
    rule = target.reduced
    finding = _apply(rule, found, claim)
  return ClaimVerdict(
    row=target.row,
    metric=target.metric,
    value=target.value,
    source=target.source,
    accepts=rule.accepts(claim),
    verdict=_verdict(finding, bool(why)),
    measured=finding.measured,
    interval=finding.interval,
    seeds=finding.seeds,
    why='; '.join(filter(None, (finding.why, *why))),
  )


def decide_control(
  control: Control,
  found: Measurements,
  expected: float | None,
  changed: Sequence[str] = (),
) -> ClaimVerdict:
  """Returns the verdict on a control.

  Args:
    control: the control.
    found: all metrics of the table.
    expected: the number that it must reach, if it has one.
    changed: differences from the flags of the experiment, in words, such as
      fewer steps; if there are any, a control that misses its rule is
      'undecided', not 'fail'.
  """
  claim = Claim(control.row, control.metric, expected)
  finding = _apply(control.rule, found, claim)
  verdict: ControlVerdict = 'pass' if finding.holds else 'fail'
  if changed and not finding.holds:
    verdict = 'undecided'
  return ClaimVerdict(
    row=control.row,
    metric=control.metric,
    value=expected,
    source=control.about,
    accepts=control.rule.accepts(claim),
    verdict='not run' if finding.holds is None else verdict,
    measured=finding.measured,
    interval=finding.interval,
    seeds=finding.seeds,
    why='; '.join(filter(None, (finding.why, *changed))),
  )


def deviations(stated: Config, here: Config, what: str) -> list[str]:
  """Returns the flags by which a run differs from its specification, in words.

  Args:
    stated: the row as specified.
    here: the row as it ran.
    what: name of the specification, such as 'the published scale'.

  Returns:
    One sentence that lists the flags, or nothing if there is no difference.
  """
  flags = changes(stated, here)
  flags.pop('seed', None)
  own = to_flags(stated)
  said = [
    f'{flag}={text}' + (f' for {own[flag]}' if flag in own else '')
    for flag, text in flags.items()
  ]
  if not said:
    return []
  rest = len(said) - _MAX_NAMED
  more = f' and {rest} more' if rest > 0 else ''
  return [f'not {what}: {", ".join(said[:_MAX_NAMED])}{more}']


def _apply(rule: Rule, found: Measurements, claim: Claim) -> RuleResult:
  """Applies a rule to the metrics; one that raises an error decides nothing.

  All trials are trained by now, so an error in a rule must not cost the table.
  """
  try:
    return rule.find(found, claim)
  except Exception as e:
    first = str(e).partition('\n')[0]
    return RuleResult(
      None, why=f'its rule is broken: {type(e).__name__}: {first}'
    )


def _verdict(finding: RuleResult, reduced: bool) -> PublishedVerdict:
  if finding.holds is None:
    return 'not run'
  if finding.holds and not reduced:
    return 'reproduced'
  if finding.holds or finding.direction:
    return 'direction only'
  return 'not reproduced'
