"""Rows of equal size: solves widths so that a row costs what the base costs."""

import bisect
import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from experiments.cost import cost
from model.field import FieldError
from train.config import Config
from train.schema import changes, override, to_flags

By = Literal['params', 'flops', 'none']

TOLERANCE = 0.005
# Beyond 4 times its width, either way, a feed-forward sub-layer is another
# ablation; the model's width moves first.
SPAN = 4
WIDEST = 2**24
# Model widths tried: 1.1 % apart, and of these so many that come nearest.
GRID, NEAREST = 128, 16
WIDTH, MODEL = 'feedforward.width', 'd_model'


@dataclasses.dataclass(frozen=True)
class Matched:
  """A row of about the base's size.

  Attributes:
    config: the row, widths solved.
    ratio: its parameters or FLOPs per token over the base's.
    exact: whether that is within TOLERANCE of 1; if not, no widths were found.
    note: what was done, and why not more.
  """

  config: Config
  ratio: float
  exact: bool
  note: str


def match(
  base: Config,
  config: Config,
  vocab_size: int,
  by: By,
  base_vocab_size: int | None = None,
) -> Matched:
  """Returns the row with widths that give it the base's size.

  A row that is within 0.5 % already stays as it is.  Else the feed-forward
  width moves, by up to a factor of SPAN; else the model's width, and the
  feed-forward width with it; else the feed-forward width, however far.  What
  the row itself changes does not move.

  Args:
    base: what the row is compared with.
    config: the row.
    vocab_size: of the row's task.
    by: 'params' for all parameters, 'flops' for those of training per token;
      'none' changes nothing, the ratio is that of the parameters.
    base_vocab_size: of the base's task, if that is another.
  """
  size = _Size(vocab_size, by)
  goal = _Size(base_vocab_size or vocab_size, by).of(base)
  if by == 'none':
    ratio = size.of(config) / goal
    return Matched(config, ratio, abs(ratio - 1) <= TOLERANCE, 'not asked for')
  pinned = _pinned(base, config)
  best = None
  for attempt in _attempts(config, size, goal, pinned):
    ratio = size.of(attempt) / goal
    if best is None or _distance(ratio) < _distance(best.ratio):
      exact = abs(ratio - 1) <= TOLERANCE
      note = _note(config, attempt, exact, pinned)
      best = Matched(attempt, ratio, exact, note)
    if best.exact:
      break
  assert best is not None
  return best


@dataclasses.dataclass(frozen=True)
class _Size:
  """What is to be equal."""

  vocab_size: int
  by: By

  def of(self, config: Config) -> int:
    """Returns the size of a row."""
    figures = cost(config, self.vocab_size)
    return figures.flops_per_token if self.by == 'flops' else figures.parameters


def _distance(ratio: float) -> float:
  return abs(math.log(ratio))


def _note(
  config: Config, attempt: Config, exact: bool, pinned: dict[str, str]
) -> str:
  """Returns what was done, and what could not move."""
  done = ' '.join(f'{k}={v}' for k, v in changes(config, attempt).items())
  done = done or 'as it is'
  parts = [done] if exact else [f'not within {TOLERANCE:.1%}', done]
  if attempt is not config or not exact:
    parts += [f'{field} fixed: {why}' for field, why in pinned.items()]
  return '; '.join(parts)


def _pinned(base: Config, config: Config) -> dict[str, str]:
  """Returns `{field: why}` of the widths that may not move."""
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


def _attempts(
  config: Config, size: _Size, goal: int, pinned: dict[str, str]
) -> Iterator[Config]:
  """Yields the row with other widths, the mildest change first."""
  yield config
  if WIDTH not in pinned:
    yield _solve(config, _within_span(config), size, goal)
  if MODEL not in pinned:
    for other in _models(config, size, goal):
      if WIDTH in pinned:
        yield other
      else:
        yield _solve(other, _within_span(other), size, goal)
  if WIDTH not in pinned:
    far = _solve(config, range(1, WIDEST), size, goal)
    # A sub-layer of width 1 that does not match either would only do harm.
    if abs(size.of(far) / goal - 1) <= TOLERANCE:
      yield far


def _within_span(config: Config) -> range:
  """Returns the feed-forward widths up to SPAN times narrower or wider."""
  dims = config.dims(vocab_size=1)
  table = config.architecture.block_tables(dims)['feedforward']
  width = max(
    size
    for what in table.values()
    for letter, size in zip(
      what.axes.replace('->', ''), what.shape, strict=True
    )
    if letter == 'F'
  )
  return range(-(-width // SPAN), min(SPAN * width + 1, WIDEST))


def _solve(config: Config, widths: range, size: _Size, goal: int) -> Config:
  """Returns the row with the feed-forward width that comes nearest."""

  def wide(width: int) -> Config:
    return override(config, {WIDTH: str(width)})

  def figure(width: int) -> int:
    return size.of(wide(width))

  above = bisect.bisect_left(widths, goal, key=figure)
  near = [i for i in (above - 1, above) if 0 <= i < len(widths)]
  return wide(
    min((widths[i] for i in near), key=lambda w: _distance(figure(w) / goal))
  )


def _models(config: Config, size: _Size, goal: int) -> list[Config]:
  """Returns the row with other model widths, those nearest the goal first.

  Multiples of the number of heads, and only what every rule allows: rotary
  positions, for one, want an even width of a head.
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
  found.sort(key=lambda other: _distance(size.of(other) / goal))
  return found[:NEAREST]
