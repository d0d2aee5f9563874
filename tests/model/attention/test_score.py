"""Scores: what reads no query is refused what changes queries."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from model.attention.outputs.differential import Differential
from model.attention.projections.base import SharedKv
from model.attention.qk_norm import RmsQkNorm
from model.attention.scale import NoScale
from model.attention.scores.place_scores import (
  Fixed,
  SynthesizerDense,
  SynthesizerRandom,
)
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from model.core.side_output import ATTENTION_MAPS
from model.position.base import Rope
from model.transformer import apply
from spec.architectures import BASE, TOKENS_BT, dims_of, params_of

pytestmark = pytest.mark.usefixtures('quick_compilation')

UNREAD = (SynthesizerDense(), SynthesizerRandom(), Fixed())


@pytest.mark.parametrize('score', UNREAD)
@pytest.mark.parametrize(
  'change',
  [
    {'position': Rope()},
    {'qk_norm': RmsQkNorm()},
    {'output': (Differential(),)},
    {'projections': SharedKv()},
  ],
)
def test_what_changes_unread_queries_is_refused(
  score: Any, change: dict[str, Any]
) -> None:
  with pytest.raises(FieldError, match='--score'):
    dataclasses.replace(BASE, score=score, **change)


@pytest.mark.parametrize('score', UNREAD)
def test_what_is_not_read_has_no_parameters(score: Any) -> None:
  arch = dataclasses.replace(BASE, score=score)
  assert set(arch.block_tables(dims_of(arch))['attention']) == {'value', 'out'}


def test_one_head_has_no_second_to_look_ahead() -> None:
  with pytest.raises(FieldError, match=r'--score\.places=both: .*num_heads=2'):
    dataclasses.replace(BASE, score=Fixed('both'), num_heads=1)


def test_a_narrow_bell_is_one_place() -> None:
  arch = dataclasses.replace(
    BASE, num_heads=4, score=Fixed('both', std=0.05), scale=NoScale()
  )
  out = apply(
    arch,
    dims_of(arch),
    params_of(arch),
    ModelInputs(TOKENS_BT),
    wanted=ATTENTION_MAPS,
  )
  assert out.weights_LBNTS is not None
  seen_NT = np.asarray(out.weights_LBNTS)[0, 0].argmax(-1)
  wanted_NT = [[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
  # What lies ahead is hidden: the nearest that is seen is the place itself.
  np.testing.assert_array_equal(seen_NT, [*wanted_NT, [0] * 6])
