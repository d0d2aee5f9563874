"""Flags that several variants have, each with its own type."""

import dataclasses
from typing import Literal

import pytest

from model.core.field import FieldError, Record, Variant, field
from model.core.limits import WIDTH
from train.flags.absl_flags import type_name
from train.flags.schema import flag_specs, override, to_flags


@dataclasses.dataclass(frozen=True)
class Mlp(Variant, tag='mlp'):
  """Two matrices."""

  activation: Literal['relu', 'gelu'] = field('gelu', 'Between them.')
  ratio: int = field(4, 'Its width.', min=1, max=WIDTH)


@dataclasses.dataclass(frozen=True)
class Gated(Variant, tag='gated'):
  """Three matrices."""

  activation: Literal['silu', 'gelu'] = field('silu', 'Of the gate.')
  ratio: float | None = field(2.5, 'Its width.', min=1.0, max=WIDTH)


@dataclasses.dataclass(frozen=True)
class Model(Record):
  feedforward: Mlp | Gated = field(Mlp(), 'Sub-layer.')


@dataclasses.dataclass(frozen=True)
class Named(Variant, tag='named'):
  """Has a text where another has a number."""

  ratio: str = field('', 'Its name.')


@dataclasses.dataclass(frozen=True)
class Mixed(Record):
  feedforward: Mlp | Named = field(Mlp(), 'Sub-layer.')


def test_a_flag_accepts_what_any_variant_does() -> None:
  known = flag_specs(Model)
  assert type_name(known['feedforward.activation'].hint) == 'relu|gelu|silu'
  assert type_name(known['feedforward.ratio'].hint) == 'number|none'


def test_a_value_is_of_the_type_of_the_variant_that_is_chosen() -> None:
  gated = {'feedforward': 'gated', 'feedforward.activation': 'silu'}
  new = override(Model(), gated | {'feedforward.ratio': 'none'})
  assert new.feedforward == Gated('silu', None)
  assert override(Model(), to_flags(new)) == new
  assert override(Model(), {'feedforward.ratio': '3'}).feedforward == Mlp(
    'gelu', 3
  )
  with pytest.raises(FieldError, match=r'--feedforward.activation=silu: must'):
    override(Model(), {'feedforward.activation': 'silu'})
  with pytest.raises(FieldError, match=r'ratio=2.5: must be an integer'):
    override(Model(), {'feedforward.ratio': '2.5'})


def test_a_text_and_a_number_have_no_joint_flag() -> None:
  with pytest.raises(TypeError, match=r'ratio has two types'):
    flag_specs(Mixed)
