"""Masks: predicates for which keys a query may attend to."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, Variant, field
from model.core.inputs import Positions
from model.core.limits import COUNT


class MaskTraits(NamedTuple):
  """Properties of a mask that the rules read.

  Attributes:
    hides_future: no query sees a later key, so keys can be cached.
    hides_targets: some queries do not see the next token, and can predict it.
    hides_self: no query sees its own key.
    hides_padding: no query sees a key that is padding.
    reads_segments: it needs segments from the task.
    separates: no document sees another; places count from 0 in each document.
    stands_alone: it has no effect beside any other mask.
    by_model: it is replaced by the mask that --model needs.
    shape: keys that a query sees, in terms that kernels know: all keys, the
      past, those nearer than `distance`, or other.
  """

  hides_future: bool = False
  hides_targets: bool = False
  hides_self: bool = False
  hides_padding: bool = False
  reads_segments: bool = False
  separates: bool = False
  stands_alone: bool = False
  by_model: bool = False
  shape: Literal['all', 'past', 'near', 'other'] = 'other'

  @property
  def changes_targets(self) -> bool:
    """Returns whether the mask decides what can be predicted or cached."""
    return (
      self.hides_future
      or self.hides_targets
      or self.hides_padding
      or self.reads_segments
    )


class MaskBase(Variant, abc.ABC):
  """Base of all masks."""

  traits: ClassVar[MaskTraits] = MaskTraits()

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns an error if the mask has no effect at this length, or `None`."""
    del seq_len
    return None

  def is_idle_beside(self, other: 'MaskBase') -> bool:
    """Returns whether the mask has no effect beside another mask."""
    del other
    return self.traits.stands_alone

  def distance(self) -> tuple[int, str] | None:
    """Returns the distance from which keys are hidden, and its field.

    `None` means that there is no such distance.
    """
    return None

  def given(self) -> int:
    """Returns the number of positions at the beginning that all see each other.

    Decoding must run all of them in its first step.
    """
    return 0

  @abc.abstractmethod
  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where a query may see a key; the arrays broadcast."""


@dataclasses.dataclass(frozen=True)
class AutoMask(MaskBase, tag='auto'):
  """The mask that --model needs: causal, or padding for an encoder (ours)."""

  traits: ClassVar[MaskTraits] = MaskTraits(by_model=True, stands_alone=True)

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Never called: `FamilyBase.resolved` replaces this mask."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Causal(MaskBase, tag='causal'):
  """A position attends to itself and the past (Vaswani et al. 2017, 3.2.3)."""

  traits: ClassVar[MaskTraits] = MaskTraits(
    hides_future=True, hides_targets=True, shape='past'
  )

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the query may see the key."""
    return key.t <= query.t


@dataclasses.dataclass(frozen=True)
class Full(MaskBase, tag='full'):
  """Every position attends to every position (Vaswani et al. 2017)."""

  traits: ClassVar[MaskTraits] = MaskTraits(stands_alone=True, shape='all')

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the query may see the key."""
    return (query.t == query.t) & (key.t == key.t)


@dataclasses.dataclass(frozen=True)
class ExcludeSelf(MaskBase, tag='exclude_self'):
  """A position does not attend to itself (Kitaev et al. 2020, section 2).

  Departure: in the Reformer, a position that sees no other key sees itself;
  here its attention weights are all zero.
  """

  traits: ClassVar[MaskTraits] = MaskTraits(hides_self=True)

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the query may see the key."""
    return key.t != query.t


@dataclasses.dataclass(frozen=True)
class Window(MaskBase, tag='window'):
  """Only keys nearer than a window (Beltagy et al. 2020, arXiv:2004.05150).

  |t - s| < window.  With causal, a query sees itself and window - 1 before it.
  """

  traits: ClassVar[MaskTraits] = MaskTraits(shape='near')

  window: int = field(
    16, 'Distance from which keys are hidden.', min=1, max=COUNT
  )

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns an error if the mask has no effect at this length, or `None`."""
    return _too_wide_problem('window', self.window, seq_len)

  def distance(self) -> tuple[int, str]:
    """Returns the window."""
    return self.window, 'window'

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the query may see the key."""
    return jnp.abs(query.t - key.t) < self.window


@dataclasses.dataclass(frozen=True)
class Prefix(MaskBase, tag='prefix'):
  """Full within a prefix, causal after it (Raffel et al. 2020, section 3.2.1).

  s <= t or s < prefix; with segments, in each document.  Positions that see
  their own target do not count in the loss.
  """

  traits: ClassVar[MaskTraits] = MaskTraits(hides_targets=True)

  prefix: int = field(8, 'Length of the prefix.', min=1, max=COUNT)

  def problem(self, seq_len: int) -> FieldError | None:
    """Returns an error if the mask has no effect at this length, or `None`."""
    if self.prefix == 1:
      return FieldError(
        'mask.prefix',
        self.prefix,
        'shows nothing that causal hides: make it larger, or name causal',
      )
    return _too_wide_problem('prefix', self.prefix, seq_len)

  def is_idle_beside(self, other: MaskBase) -> bool:
    """Returns whether the other mask hides the future within the prefix."""
    return other.traits.hides_future

  def given(self) -> int:
    """Returns the length of the prefix."""
    return self.prefix

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the query may see the key."""
    place = key.t if key.place is None else key.place
    return (key.t <= query.t) | (place < self.prefix)


@dataclasses.dataclass(frozen=True)
class Segments(MaskBase, tag='segments'):
  """Only keys of the same document of a packed example (Krell et al. 2021).

  Positions are counted from the beginning of each document, so that its outputs
  do not depend on where it is in the row.
  """

  traits: ClassVar[MaskTraits] = MaskTraits(
    hides_padding=True, reads_segments=True, separates=True
  )

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where both are in the same segment, other than 0."""
    if query.segment is None or key.segment is None:
      raise ValueError('--mask=segments: needs segments_BT')
    return (query.segment == key.segment) & (key.segment != 0)


@dataclasses.dataclass(frozen=True)
class Padding(MaskBase, tag='padding'):
  """No key that is padding, which is segment 0 (Vaswani et al. 2017).

  Without segments there is no padding.
  """

  traits: ClassVar[MaskTraits] = MaskTraits(
    hides_padding=True, reads_segments=True
  )

  def is_idle_beside(self, other: MaskBase) -> bool:
    """Returns whether the other mask hides padding by separating documents."""
    return other.traits.separates

  def allowed(self, query: Positions, key: Positions) -> jax.Array:
    """Returns True where the key is not padding."""
    if key.segment is None:
      return jnp.ones_like(key.t, bool)
    return key.segment != 0


def allowed(
  masks: Sequence[MaskBase], query: Positions, key: Positions
) -> jax.Array:
  """Returns True where every mask allows the query to see the key."""
  seen = jnp.ones(jnp.broadcast_shapes(query.t.shape, key.t.shape), bool)
  for mask in masks:
    seen &= mask.allowed(query, key)
  return seen


def separate(masks: Sequence[MaskBase]) -> bool:
  """Returns whether a mask separates the documents of a row."""
  return any(mask.traits.separates for mask in masks)


def hides_target(masks: Sequence[MaskBase], t_T: jax.Array) -> jax.Array:
  """Returns True where a query does not see the next position, its target.

  Args:
    masks: the masks.
    t_T: positions of the queries, of any shape; places in documents if a mask
      separates these.
  """
  seen_T = jnp.ones(t_T.shape, bool)
  for mask in masks:
    if not mask.traits.reads_segments:
      seen_T &= mask.allowed(Positions(t_T), Positions(t_T + 1))
  return ~seen_T


def _too_wide_problem(name: str, size: int, seq_len: int) -> FieldError | None:
  if size < seq_len:
    return None
  return FieldError(
    f'mask.{name}',
    size,
    f'hides nothing at --seq_len={seq_len}: make it smaller, or drop the mask',
  )
