"""Attention of x-transformers, where it is installed.

Where definitions differ, the variant is left out or stands with what agrees:

  * Their sigmoid attention has no bias.  Ours is theirs with the bias -log n,
    which is given to it.
  * Their grouped keys: head n reads the key head n % K, and not n // (N / K) as
    in Llama.  One key head for all is one.
  * `output_gate` reads what the heads give, `--output=gate` what the sub-layer
    is given, as `gate_values` does.
  * `learned_value_residual_mix` is a number for each position, ours two for the
    layer.  The mean, from which ours start, is compared.
  * `orthog_projected_values` takes one direction for the whole sequence, and so
    sees the future; `--output=exclusive_self` takes one for each position.
  * `latent_rope_subheads` rotates whole heads, `--projections=mla` a part of
    each.  Without rotation both are one.
  * Entmax, sparsemax and ReLU are not there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from model.attention.mask import Causal, Window
from model.attention.normalizers.dense import Sigmoid, SinkSoftmax, Softmax1
from model.attention.normalizers.sparse import Hard, TopK
from model.attention.outputs.base import Gate
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import TalkingHeads, ValueResidual
from model.attention.projections.latent import Mla
from model.attention.qk_norm import L2QkNorm, RmsQkNorm
from model.attention.scale import NoScale
from model.attention.scores.base import L2
from model.position.base import Alibi
from peers.layers import (
  PEER,
  Sublayer,
  Tables,
  Weights,
  assert_agrees,
  matrix,
  torch,
)
from spec.architectures import draws

source = pytest.importorskip('x_transformers.x_transformers')
pytestmark = pytest.mark.usefixtures('quick_compilation')


class Case(NamedTuple):
  """One variant.

  Attributes:
    change: of our architecture.
    options: of theirs.
    weights: what theirs has beside queries, keys, values and W_O, of ours.
    given: what theirs is called with.
    fixed: what ours is given in place of drawn numbers, by part.
  """

  change: Mapping[str, Any] = {}
  options: Mapping[str, Any] = {}
  weights: Callable[[Tables], Weights] = lambda tables: {}
  given: Mapping[str, Any] = {}
  fixed: Mapping[str, Any] = {}


def talking(tables: Tables) -> Weights:
  own = tables['output_talking_heads']
  # Theirs adds what it mixes before the softmax, and not what after it.
  both = {'pre': own['logits'], 'post': own['weights'] + np.eye(2)}
  return {
    f'attend.{when}_softmax_talking_heads.weight': kernel.T[..., None, None]
    for when, kernel in both.items()
  }


def forgetting(tables: Tables) -> Weights:
  own = tables['output_forget']
  name = 'data_dependent_alibi.to_forget_gates.0'
  return {f'{name}.weight': own['kernel'].T, f'{name}.bias': own['bias']}


def normalised(tables: Tables) -> Weights:
  """Returns gains of each head, of which ours have one for all; less 1."""
  return {
    f'{name[0]}_rmsnorm.gamma': np.tile(gain - 1.0, (2, 1, 1))
    for name, gain in tables['qk_norm'].items()
  }


def latent(tables: Tables) -> Weights:
  own = tables['attention']
  return {
    'to_latent_q.weight': matrix(own['query_latent']),
    'to_latent_kv.weight': matrix(own['latent']),
  }


FIRST_BTKH = draws(2, 6, 2, 8, seed=3)
ONE = np.ones(())
CASES: Mapping[str, Case] = {
  'plain': Case(),
  'one key head': Case({'num_kv_heads': 1}, {'one_kv_head': True}),
  'latent': Case(
    {'projections': Mla(latent=6, rope_dim=0, query_latent=5)},
    {
      'use_latent_q': True,
      'dim_latent_q': 5,
      'use_latent_kv': True,
      'dim_latent_kv': 6,
    },
    latent,
  ),
  'soft cap': Case(
    {'logit_cap': 2.0}, {'softclamp_logits': True, 'logit_softclamp_value': 2.0}
  ),
  'window': Case({'mask': (Causal(), Window(3))}, {'max_attend_past': 2}),
  'alibi': Case(
    {'position': Alibi()}, given={'rel_pos': source.AlibiPositionalBias(2)}
  ),
  'softmax1': Case({'normalizer': Softmax1()}, {'add_zero_kv': True}),
  'sink': Case(
    {'normalizer': SinkSoftmax()},
    {'head_learned_sink': True},
    lambda tables: {'attend.head_attn_sink': tables['normalizer']['sink']},
  ),
  'sigmoid': Case(
    {'normalizer': Sigmoid()},
    {'sigmoid': True},
    given={'attn_bias': -torch.arange(1, 7).double().log()[:, None]},
  ),
  'top-k': Case({'normalizer': TopK(3)}, {'sparse_topk': 3}),
  'hard': Case({'normalizer': Hard()}, {'hard': True}),
  'distance': Case({'score': L2()}, {'l2_distance': True}),
  'unit length': Case(
    {'qk_norm': L2QkNorm(start=10.0, eps=0.0), 'scale': NoScale()},
    {'qk_norm': True, 'qk_norm_scale': 10},
    fixed={'qk_norm': {'gain': ONE}},
  ),
  'rms of q and k': Case(
    {'qk_norm': RmsQkNorm(0.0)}, {'qk_rmsnorm': True}, normalised
  ),
  'talking heads': Case(
    {'output': (TalkingHeads(),)},
    {'pre_talking_heads': True, 'post_talking_heads': True},
    talking,
  ),
  'gate': Case(
    {'output': (Gate(),)},
    {'gate_values': True},
    lambda tables: {
      'to_v_gate.weight': matrix(tables['output_gate']['kernel'])
    },
  ),
  'forget': Case(
    {'output': (Forget(),)}, {'data_dependent_alibi': True}, forgetting
  ),
  'value residual': Case(
    {'output': (ValueResidual(),)},
    given={'value_residual': torch.tensor(FIRST_BTKH).transpose(1, 2)},
    fixed={'output_value_residual': {'first': ONE, 'own': ONE}},
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_x_transformers(name: str) -> None:
  case = CASES[name]
  arch = dataclasses.replace(PEER, **case.change)
  first_BTKH = FIRST_BTKH if name == 'value residual' else None
  peer = source.Attention(16, dim_head=8, heads=2, causal=True, **case.options)

  def weights(tables: Tables) -> Weights:
    own = tables['attention']
    return {
      'to_q.weight': matrix(own['query']),
      'to_k.weight': matrix(own['key']),
      'to_v.weight': matrix(own['value']),
      'to_out.weight': matrix(own['out'], 2),
    } | case.weights(tables)

  assert_agrees(
    Sublayer(arch, layer=1, first_BTKH=first_BTKH, fixed=case.fixed),
    peer,
    weights,
    lambda x: peer(x, **case.given),
  )
