"""What looks ahead follows the mask of its stack; T5's buckets are exact."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.architecture.architecture import Architecture
from model.architecture.family import (
  Classifier,
  Decoder,
  Encoder,
  EncoderDecoder,
  FamilyBase,
)
from model.attention.mask import AutoMask, Causal, MaskBase, Prefix, Window
from model.attention.scores.place_scores import Fixed
from model.core.field import FieldError
from model.position.base import T5, _first_distances
from spec.reference import t5_far


def test_far_buckets_are_those_of_fractions() -> None:
  """Also where the logarithm of a distance is a whole number of buckets."""
  whole = 0
  for buckets in range(4, 13):
    near, growing = buckets // 2, buckets - buckets // 2
    for largest in range(near + 1, 40):
      distances = range(near, largest + 3)
      first = _first_distances(buckets, largest)
      found = near + np.searchsorted(first, distances, side='right')
      expected = [t5_far(d, near, growing, largest) for d in distances]
      np.testing.assert_array_equal(found, expected)
      whole += sum(
        Fraction(d, near) ** growing == Fraction(largest, near) ** j
        for d in range(near + 1, largest)
        for j in range(1, growing)
      )
  assert whole > 10  # a rounded logarithm falls to either side there


def bucket(position: T5, distances: np.ndarray) -> np.ndarray:
  return np.asarray(jax.jit(position._bucket)(jnp.asarray(distances)))


def test_a_whole_logarithm_is_not_rounded_down() -> None:
  found = bucket(T5(8, 9, bidirectional=False), np.arange(-2, 12))
  assert list(found) == [0, 0, 0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 7, 7]
  both = bucket(T5(16, 9, bidirectional=True), np.arange(-9, 10))
  assert list(both[9:]) == [0, 1, 2, 3, 4, 5, 6, 6, 7, 7]
  assert list(both[:9]) == [15, 15, 14, 14, 13, 12, 11, 10, 9]


def test_many_buckets_end_with_the_largest_distance() -> None:
  far = bucket(T5(4096, 100_000, bidirectional=False), np.arange(200_000))
  assert (np.diff(far) >= 0).all()
  assert far[99_000] < 4095
  assert (far[100_000:] == 4095).all()


BOTH_AND_PAST = [('encoder', True), ('blocks', False)]


@pytest.mark.parametrize(
  ('model', 'mask', 'ahead'),
  [
    (Decoder(), (AutoMask(),), [('blocks', False)]),
    (Decoder(), (Causal(), Window(2)), [('blocks', False)]),
    (Decoder(), (Prefix(3),), [('blocks', True)]),
    (Encoder(), (AutoMask(),), [('blocks', True)]),
    (Encoder(), (Window(2),), [('blocks', True)]),
    (Encoder(), (Causal(),), [('blocks', False)]),
    (Classifier(), (AutoMask(),), [('blocks', True)]),
    (EncoderDecoder(), (AutoMask(),), BOTH_AND_PAST),
    (EncoderDecoder(), (Causal(), Window(2)), BOTH_AND_PAST),
  ],
)
def test_what_looks_ahead_follows_the_mask_of_its_stack(
  model: FamilyBase, mask: tuple[MaskBase, ...], ahead: list[tuple[str, bool]]
) -> None:
  arch = Architecture(model=model, mask=mask, position=T5())
  fixed = Architecture(model=model, mask=mask, score=Fixed())
  for name, sees in ahead:
    (stack,) = (s for s in arch.stacks if s.name == name)
    assert arch.parts_of(stack).position == T5(bidirectional=sees)
    places = 'both' if sees else 'past'
    assert fixed.parts_of(stack).score == Fixed(places)
  # What is said is done in every stack.
  for sees in (False, True):
    said = dataclasses.replace(arch, position=T5(bidirectional=sees))
    for stack in said.stacks:
      assert said.parts_of(stack).position == said.position
  params = {'bias': jnp.arange(64.0).reshape(32, 2)}
  here = arch.parts_of(arch.stacks[0]).position
  bias_NTS = here.bias(params, 2, jnp.arange(3), jnp.arange(3))
  assert bias_NTS is not None
  apart = bool((bias_NTS[:, 0, 1] != bias_NTS[:, 0, 2]).all())
  assert apart == ahead[0][1]


def test_odd_buckets_have_no_half_for_the_future() -> None:
  decoder = Architecture(position=T5(buckets=5, max_distance=9))
  with pytest.raises(FieldError, match=r'--position\.buckets=5: must be even'):
    dataclasses.replace(decoder, model=Encoder())
  one_way = T5(buckets=5, max_distance=9, bidirectional=False)
  dataclasses.replace(decoder, model=Encoder(), position=one_way)
