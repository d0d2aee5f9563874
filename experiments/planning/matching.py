"""--match: adjusts the widths of a row until it is as large as the base."""

import bisect
import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from experiments.planning.cost import cost
from model.core.field import FieldError
from train.config.config import Config
from train.flags.schema import changes, override, to_flags

SizeMeasure = Literal['params', 'flops', 'none']

TOLERANCE = 0.005
# A feed-forward layer more than 4 times wider or narrower would be an ablation
# of its own; before that, the model's width is changed.
SPAN = 4
WIDEST = 2**24
# Candidate model widths are SPAN ** (1 / GRID), that is 1.1 %, apart; the
# NEAREST ones to the goal are tried.
GRID, NEAREST = 128, 16
WIDTH, MODEL = 'feedforward.width', 'd_model'


@dataclasses.dataclass(frozen=True)
class SizeMatch:
  """A row with adjusted widths.

  Attributes:
    config: the configuration of the row.
    ratio: its parameters or FLOPs per token, divided by the base's.
    exact: whether the ratio is within TOLERANCE of 1; if not, no widths do.
    note: the changed flags, and the widths that had to stay.
    warning: what else the row now changes, if its feed-forward has no width.
  """

  config: Config
  ratio: float
  exact: bool
  note: str
  warning: str | None = None


def match(
  base: Config,
  config: Config,
  vocab_size: int,
  by: SizeMeasure,
  base_vocab_size: int | None = None,
) -> SizeMatch:
  """Returns the row with widths that give it the base's size.

  A row within 0.5 % of the base is not changed.  Otherwise these are tried in
  turn: the feed-forward width, by up to a factor of SPAN; the model's width
  together with the feed-forward width; any feed-forward width.  Widths that the
  row itself sets are never changed.

  Args:
    base: the configuration that the row is compared with.
    config: the configuration of the row.
    vocab_size: vocabulary size of the row's task.
    by: 'params' matches the number of parameters, 'flops' the training FLOPs
      per token; 'none' changes nothing and reports the ratio of parameters.
    base_vocab_size: vocabulary size of the base's task, if it differs.
  """
  size = _Size(vocab_size, by)
  goal = _Size(base_vocab_size or vocab_size, by).of(base)
  if by == 'none':
    ratio = size.of(config) / goal
    return SizeMatch(
      config, ratio, abs(ratio - 1) <= TOLERANCE, 'not asked for'
    )
  pinned = _fixed_widths(base, config)
  best = None
  for attempt in _candidates(config, size, goal, pinned):
    ratio = size.of(attempt) / goal
    if best is None or _log_distance(ratio) < _log_distance(best.ratio):
      exact = abs(ratio - 1) <= TOLERANCE
      note = _note(config, attempt, exact, pinned)
      warning = _warning(base, config, attempt)
      best = SizeMatch(attempt, ratio, exact, note, warning)
    if best.exact:
      break
  assert best is not None
  return best


@dataclasses.dataclass(frozen=True)
class _Size:
  """The size that is matched: parameters or FLOPs per token."""

  vocab_size: int
  by: SizeMeasure

  def of(self, config: Config) -> int:
    """Returns the size of a configuration."""
    figures = cost(config, self.vocab_size)
    return figures.flops_per_token if self.by == 'flops' else figures.parameters


def _log_distance(ratio: float) -> float:
  return abs(math.log(ratio))


def _note(
  config: Config, attempt: Config, exact: bool, pinned: dict[str, str]
) -> str:
  """Returns the changed flags and the fixed widths, in words."""
  done = ' '.join(f'{k}={v}' for k, v in changes(config, attempt).items())
  done = done or 'as it is'
  parts = [done] if exact else [f'not within {TOLERANCE:.1%}', done]
  if attempt is not config or not exact:
    parts += [f'{field} fixed: {why}' for field, why in pinned.items()]
  return '; '.join(parts)


def _warning(base: Config, config: Config, attempt: Config) -> str | None:
  """Returns why a row whose feed-forward has no width differs in more."""
  own, old = config.architecture, base.architecture
  width = attempt.architecture.d_model
  if width == own.d_model or WIDTH in to_flags(config):
    return None
  return (
    f"--feedforward={own.feedforward.tag} has no field 'width', so "
    f'd_model={width} where the base has {old.d_model}: its difference is not '
    'that of the flags of the row alone'
  )


def _fixed_widths(base: Config, config: Config) -> dict[str, str]:
  """Returns `{field: why}` of the widths that must not change."""
  if config.init_from is not None:
    given = 'the initial parameters are given'
    return {WIDTH: given, MODEL: given}
  out = {}
  flags, changed = to_flags(config), changes(base, config)
  variant = config.architecture.feedforward
  same = type(variant) is type(base.architecture.feedforward)
  start = to_flags(base) if same else to_flags(type(variant)(), 'feedforward.')
  if WIDTH not in flags:
    out[WIDTH] = f'feedforward={variant.tag} has none'
  elif flags[WIDTH] != start[WIDTH]:
    out[WIDTH] = 'the row sets it'
  if MODEL in changed:
    out[MODEL] = 'the row sets it'
  return out


def _candidates(
  config: Config, size: _Size, goal: int, pinned: dict[str, str]
) -> Iterator[Config]:
  """Yields the row with other widths, the smallest change first."""
  yield config
  if WIDTH not in pinned:
    yield _with_nearest_width(config, _within_span(config), size, goal)
  if MODEL not in pinned:
    for other in _with_model_widths(config, size, goal):
      if WIDTH in pinned:
        yield other
      else:
        yield _with_nearest_width(other, _within_span(other), size, goal)
  if WIDTH not in pinned:
    far = _with_nearest_width(config, range(1, WIDEST), size, goal)
    # A width far off that does not match either is worse than none.
    if abs(size.of(far) / goal - 1) <= TOLERANCE:
      yield far


def _within_span(config: Config) -> range:
  """Returns the feed-forward widths within a factor of SPAN."""
  dims = config.dims(vocab_size=1)
  table = config.architecture.block_tables(dims)['feedforward']
  width = max(
    size
    for what in table.values()
    for letter, size in zip(what.letters, what.shape, strict=True)
    if letter == 'F'
  )
  return range(-(-width // SPAN), min(SPAN * width + 1, WIDEST))


def _with_nearest_width(
  config: Config, widths: range, size: _Size, goal: int
) -> Config:
  """Returns the row with the feed-forward width nearest to the goal."""

  def wide(width: int) -> Config:
    return override(config, {WIDTH: str(width)})

  def figure(width: int) -> int:
    return size.of(wide(width))

  above = bisect.bisect_left(widths, goal, key=figure)
  near = [i for i in (above - 1, above) if 0 <= i < len(widths)]
  return wide(
    min(
      (widths[i] for i in near), key=lambda w: _log_distance(figure(w) / goal)
    )
  )


def _with_model_widths(config: Config, size: _Size, goal: int) -> list[Config]:
  """Returns the row with other model widths, the nearest to the goal first.

  Widths are multiples of the number of heads that pass every check; RoPE, for
  example, requires an even head dimension.
  """
  old, heads = config.architecture.d_model, config.architecture.num_heads
  units = {
    round(old / heads * SPAN ** (i / GRID)) for i in range(-GRID, GRID + 1)
  }
  found = []
  for width in sorted(heads * unit for unit in units - {0}):
    try:
      found.append(override(config, {MODEL: str(width)}))
    except FieldError:
      continue
  found.sort(key=lambda other: _log_distance(size.of(other) / goal))
  return found[:NEAREST]
