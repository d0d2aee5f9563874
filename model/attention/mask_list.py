"""Properties of a list of masks."""

from collections.abc import Sequence

from model.attention.mask import MaskBase


def max_visible_keys(
  masks: Sequence[MaskBase], seq_len: int
) -> tuple[int, str]:
  """Returns the largest number of visible keys, and the flag that sets it."""
  every = seq_len, f'--seq_len={seq_len}'
  if (nearest := distance(masks)) is None:
    return every
  window, name = nearest
  sides = 1 if any(mask.traits.hides_future for mask in masks) else 2
  itself = not any(mask.traits.hides_self for mask in masks)
  count = sides * (window - 1) + itself
  return every if count >= seq_len else (count, f'--mask.{name}={window}')


def distance(masks: Sequence[MaskBase]) -> tuple[int, str] | None:
  """Returns the smallest `MaskBase.distance`, with its field."""
  found = [far for mask in masks if (far := mask.distance()) is not None]
  return min(found, default=None)


def prefix_length(masks: Sequence[MaskBase]) -> int:
  """Returns the number of positions at the beginning that see each other."""
  return max((mask.given() for mask in masks), default=0)


def shows_padding(masks: Sequence[MaskBase]) -> bool:
  """Returns whether a query that is not padding may see padding.

  Padding comes last in a row, so a mask that hides the future hides it too.
  """
  return not any(m.traits.hides_padding or m.traits.hides_future for m in masks)


def only_padding(mask: MaskBase) -> bool:
  """Returns whether a mask hides padding and nothing else."""
  return mask.traits.hides_padding and not mask.traits.separates
