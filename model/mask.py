"""Masks: which key positions a query may attend to, as predicates."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.limits import COUNT


class Places(NamedTuple):
  """Where queries and keys stand; the arrays broadcast to [B, 1, T, S].

  Segments number the documents of a packed example from 1 on; 0 is padding.
  They are none where the model is given none.  `t` and `s` are positions in the
  row, and `s_place` that of a key in its document; none where this is the row.
  """

  t: jax.Array
  s: jax.Array
  t_segment: jax.Array | None = None
  s_segment: jax.Array | None = None
  s_place: jax.Array | None = None


class Predicate(Variant):
  """Base of the masks: hooks and what is said of them by default.

  Attributes:
    hides_future: no query sees a later key, so that keys can be cached.
    hides_targets: some queries do not see the next token, and can predict it.
    reads_segments: the task must give segments.
    separates: no document sees another: the first token of each has place 0.
  """

  hides_future: ClassVar[bool] = False
  hides_targets: ClassVar[bool] = False
  reads_segments: ClassVar[bool] = False
  separates: ClassVar[bool] = False

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns why the mask has no effect at this length, if it has none."""
    del seq_len
    return None


@dataclasses.dataclass(frozen=True)
class ByModel(Predicate, tag='auto'):
  """What --model needs: causal, or all but padding where it encodes (ours)."""

  def allowed(self, at: Places) -> jax.Array:
    """Never called: `Family.resolved` puts others in its place."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Full(Predicate, tag='full'):
  """Every position attends to every position (Vaswani et al. 2017)."""

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return (at.t == at.t) & (at.s == at.s)


@dataclasses.dataclass(frozen=True)
class Causal(Predicate, tag='causal'):
  """A position attends to itself and the past (Vaswani et al. 2017, 3.2.3)."""

  hides_future: ClassVar[bool] = True
  hides_targets: ClassVar[bool] = True

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return at.s <= at.t


@dataclasses.dataclass(frozen=True)
class ExcludeSelf(Predicate, tag='exclude_self'):
  """A position does not attend to itself (Kitaev et al. 2020, section 2).

  Departure: the Reformer lets a position that sees nothing else see itself;
  here such a row of attention weights is zero.
  """

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return at.s != at.t


@dataclasses.dataclass(frozen=True)
class Window(Predicate, tag='window'):
  """Only keys less than a window away (Beltagy et al. 2020, arXiv:2004.05150).

  |t - s| < window: with causal, a position and the window - 1 before it.
  """

  window: int = field(
    16, 'Distance at which keys are out of sight.', min=1, max=COUNT
  )

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns why the mask has no effect at this length, if it has none."""
    return _beyond('window', self.window, seq_len)

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    return jnp.abs(at.t - at.s) < self.window


@dataclasses.dataclass(frozen=True)
class Prefix(Predicate, tag='prefix'):
  """Full within a prefix, causal behind it (Raffel et al. 2020, section 3.2.1).

  s <= t or s < prefix, of each document where --mask has segments.  Positions
  that see their own target do not count in the loss.
  """

  hides_targets: ClassVar[bool] = True

  prefix: int = field(8, 'Length of the prefix.', min=1, max=COUNT)

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns why the mask has no effect at this length, if it has none."""
    if self.prefix == 1:
      return FieldError(
        'mask.prefix',
        self.prefix,
        'shows nothing that causal hides: make it larger, or name causal',
      )
    return _beyond('prefix', self.prefix, seq_len)

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the query at t may see the key at s."""
    place = at.s if at.s_place is None else at.s_place
    return (at.s <= at.t) | (place < self.prefix)


@dataclasses.dataclass(frozen=True)
class Segments(Predicate, tag='segments'):
  """Only keys of the same document of a packed example (Krell et al. 2021).

  All that reads positions counts them from the beginning of each document, so
  that what is said of it does not depend on where in a row it stands.
  """

  reads_segments: ClassVar[bool] = True
  separates: ClassVar[bool] = True

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where both have one segment, which is not 0."""
    if at.t_segment is None or at.s_segment is None:
      raise ValueError('--mask=segments: needs segments_BT')
    return (at.t_segment == at.s_segment) & (at.s_segment != 0)


@dataclasses.dataclass(frozen=True)
class Padding(Predicate, tag='padding'):
  """No key that is padding: whose segment is 0 (Vaswani et al. 2017).

  Where the model is given no segments, there is no padding.
  """

  reads_segments: ClassVar[bool] = True

  def allowed(self, at: Places) -> jax.Array:
    """Returns True where the key belongs to a segment."""
    if at.s_segment is None:
      return jnp.ones_like(at.s, bool)
    return at.s_segment != 0


Mask = (
  ByModel | Causal | Full | ExcludeSelf | Window | Prefix | Segments | Padding
)


def allowed(masks: Sequence[Mask], at: Places) -> jax.Array:
  """Returns True where every mask lets the query see the key."""
  seen = jnp.ones(jnp.broadcast_shapes(at.t.shape, at.s.shape), bool)
  for mask in masks:
    seen &= mask.allowed(at)
  return seen


def separate(masks: Sequence[Mask]) -> bool:
  """Returns whether no document of a row sees another."""
  return any(mask.separates for mask in masks)


def places(
  segments_BT: jax.Array, before: tuple[jax.Array, jax.Array] | None = None
) -> jax.Array:
  """Returns place_BT, how far each token is from the first of its document.

  Args:
    segments_BT: document of each token.
    before: document and place of the token before the first; none is no token.
  """
  t_T = jnp.arange(segments_BT.shape[1])
  first_BT = segments_BT[:, 1:] != segments_BT[:, :-1]
  # Where the first of each document stands; before the row, of one begun there.
  begin_B = jnp.zeros_like(segments_BT[:, 0])
  if before is not None:
    segment_B, place_B = before
    begin_B = jnp.where(segments_BT[:, 0] == segment_B, -1 - place_B, 0)
  begin_BT = jnp.where(first_BT, t_T[1:], begin_B[:, None])
  begin_BT = jnp.concatenate([begin_B[:, None], begin_BT], 1)
  return (t_T - jax.lax.cummax(begin_BT, axis=1)).astype(jnp.int32)


def blind(masks: Sequence[Mask], t_T: jax.Array) -> jax.Array:
  """Returns True where a query does not see the key of the next position.

  Where documents are separate, positions are places in them, of any shape.
  """
  seen_T = jnp.ones(t_T.shape, bool)
  for mask in masks:
    if not mask.reads_segments:
      seen_T &= mask.allowed(Places(t_T, t_T + 1))
  return ~seen_T


def in_sight(masks: Sequence[Mask], seq_len: int) -> tuple[int, str]:
  """Returns how many keys a query sees at most, and the flag that says so."""
  if not (windows := _windows(masks)):
    return seq_len, f'--seq_len={seq_len}'
  (window,) = windows
  sides = 1 if any(mask.hides_future for mask in masks) else 2
  itself = not any(isinstance(mask, ExcludeSelf) for mask in masks)
  count = sides * (window - 1) + itself
  if count >= seq_len:
    return seq_len, f'--seq_len={seq_len}'
  return count, f'--mask.window={window}'


def problem(masks: Sequence[Mask]) -> FieldError | None:
  """Returns which mask has no effect beside which other, if one has none."""
  tags = [mask.tag for mask in masks]

  def has(cls: type) -> bool:
    return any(isinstance(mask, cls) for mask in masks)

  if len(set(tags)) < len(tags):
    return FieldError('mask', tuple(masks), 'must name each mask once')
  if has(ExcludeSelf) and 1 in _windows(masks):
    return FieldError(
      'mask.window', 1, 'hides all that exclude_self leaves: make it larger'
    )
  for idle, beside in (
    (ByModel, Predicate),
    (Full, Predicate),
    (Prefix, Causal),
    (Padding, Segments),
  ):
    others = [
      m.tag for m in masks if isinstance(m, beside) and m.tag != idle.tag
    ]
    if has(idle) and others:
      return FieldError(
        'mask',
        tuple(masks),
        f'{idle.tag} has no effect beside {others[0]}: drop one',
      )
  return None


def _windows(masks: Sequence[Mask]) -> list[int]:
  return [mask.window for mask in masks if isinstance(mask, Window)]


def _beyond(name: str, size: int, seq_len: int) -> FieldError | None:
  if size < seq_len:
    return None
  return FieldError(
    f'mask.{name}',
    size,
    f'hides nothing at --seq_len={seq_len}: make it smaller, or drop the mask',
  )
