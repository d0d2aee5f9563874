"""Masks, and what each family of models predicts from what."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# Mask: whether the query at t sees the key at s, of documents a and b. --------


def causal(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The past and itself."""
  return s <= t


def full(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """Everything."""
  return True


def exclude_self(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """All but itself."""
  return s != t


def window(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """What is less than a window before or behind."""
  return t - variant.window < s < t + variant.window


def prefix(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The prefix, and the past behind it."""
  return s < variant.prefix or s <= t


def segments(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The same document."""
  return a == b and b > 0


def padding(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """What is not padding."""
  return b > 0


def sees(
  masks: Iterable[Any], t: int, s: int, segments_T: Sequence[int]
) -> bool:
  """Whether all of the masks let the query at t see the key at s."""
  a, b = segments_T[t], segments_T[s]
  return all(MASKS[m.tag](m, t, s, a, b) for m in masks)


def places(
  masks: Iterable[tuple[str, Any]], segments_T: Sequence[int]
) -> list[int]:
  """Returns what each position counts as: in its document, if these part."""
  if 'segments' not in [tag for tag, _ in masks]:
    return list(range(len(segments_T)))
  found: list[int] = []
  for t, own in enumerate(segments_T):
    goes_on = t > 0 and segments_T[t - 1] == own
    found.append(found[-1] + 1 if goes_on else 0)
  return found


class FamilyReference(NamedTuple):
  """What `--mask=auto` stands for, what is predicted, and from what."""

  auto: str
  classes: bool = False
  source: bool = False


def masks_of(arch: Any, encodes_source: bool) -> list[tuple[str, Any]]:
  """Returns the masks of self-attention as tags and variants.

  The encoder of a source has those of its decoder that look both ways alike,
  and sees no padding.
  """
  family = FAMILIES[arch.model.tag]
  found = [(family.auto if m.tag == 'auto' else m.tag, m) for m in arch.mask]
  if not encodes_source:
    return found
  kept = ('full', 'exclude_self', 'window')
  return [*((t, m) for t, m in found if t in kept), ('padding', None)]


def directed(arch: Any, encodes_source: bool) -> Any:
  """Returns the choices with a side for each `auto`: the mask of the stack's.

  Positions and scores look ahead where a query may see a later key.
  """
  ahead = all(tag != 'causal' for tag, _ in masks_of(arch, encodes_source))
  position, score = arch.position, arch.score
  if position.tag == 't5' and position.bidirectional is None:
    position = dataclasses.replace(position, bidirectional=ahead)
  if score.tag == 'fixed' and score.places == 'auto':
    places = 'both' if ahead else 'past'
    score = dataclasses.replace(score, places=places)
  return dataclasses.replace(arch, position=position, score=score)


MASKS: dict[str, Any] = {
  'causal': causal,
  'full': full,
  'exclude_self': exclude_self,
  'window': window,
  'prefix': prefix,
  'segments': segments,
  'padding': padding,
  'auto': None,  # `masks_of` puts another in its place
}

FAMILIES: dict[str, Any] = {
  'decoder': FamilyReference('causal'),
  'encoder': FamilyReference('padding'),
  'classifier': FamilyReference('padding', classes=True),
  'encoder_decoder': FamilyReference('causal', source=True),
}
