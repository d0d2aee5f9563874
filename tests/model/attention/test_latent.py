"""Multi-head latent attention: what it saves, and what it is refused with."""

import dataclasses
from typing import Any

import pytest

from model import transformer
from model.attention.outputs.differential import Differential
from model.attention.projections.latent import Mla
from model.attention.scores.place_scores import Fixed
from model.backends.base import Chunked, Reference
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from model.position.base import Rope
from spec.architectures import BASE, TOKENS_BT, dims_of, params_of
from spec.tolerance import assert_close

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROTATED = dataclasses.replace(BASE, position=Rope(), projections=Mla(5, 2))


def test_only_the_shared_part_is_rotated() -> None:
  """Without it, the order of the past does not matter; with it, it does."""
  params = params_of(ROTATED)
  still = dict(params['blocks']['attention'])
  still['key_rotated'] = 0.0 * still['key_rotated']
  frozen = params | {'blocks': params['blocks'] | {'attention': still}}
  one = dataclasses.replace(ROTATED, num_layers=1)

  def last(params: Any, order: list[int]) -> Any:
    out = transformer.apply(
      one, dims_of(one), params, ModelInputs(TOKENS_BT[:, order])
    )
    return out.logits_BTV[:, -1]

  def first_layer(params: Any) -> Any:
    blocks = {
      part: {name: x[:1] for name, x in table.items()}
      for part, table in params['blocks'].items()
    }
    return params | {'blocks': blocks}

  there, back = [0, 1, 2, 3, 4, 5], [4, 3, 2, 1, 0, 5]
  given = first_layer(frozen)
  assert_close(last(given, there), last(given, back), 64, factor=40.0)
  given = first_layer(params)
  assert abs(last(given, there) - last(given, back)).max() > 1e-3


def test_chunks_take_keys_wider_than_values() -> None:
  params = params_of(ROTATED)
  chunked, whole = (
    transformer.apply(
      dataclasses.replace(ROTATED, backend=backend),
      dims_of(ROTATED),
      params,
      ModelInputs(TOKENS_BT),
    ).logits_BTV
    for backend in (Chunked(4), Reference())
  )
  assert_close(chunked, whole, 64, factor=4.0 * 18)


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'num_kv_heads': 1}, '--num_kv_heads=1: .*share the latent'),
    ({'projections': Mla(5, 3)}, r'--projections\.rope_dim=3: must be even'),
    ({'projections': Mla(5, 0)}, r'--projections\.rope_dim=0: .*nothing to'),
    ({'output': (Differential(),)}, '--output=differential: .*qkv'),
    ({'score': Fixed()}, '--projections=mla: .*qkv'),
  ],
)
def test_what_has_no_meaning_is_refused(
  change: dict[str, Any], match: str
) -> None:
  with pytest.raises(FieldError, match=match):
    dataclasses.replace(ROTATED, **change)
