"""Attention of PyTorch and of transformers, where they are installed.

Every weight of the peer is made of ours, and it has no others: state
dictionaries must fit.  Where definitions differ:

  * OLMo 2 normalises all heads of a query together, `--qk_norm=rms` each head
    (as Qwen3 does): left out.
  * Phi's layer normalisation of queries has offsets, which here are 0.
  * DeepSeek normalises both latent vectors by their root mean square, of which
    the equations that `Mla` cites say nothing.  The two norms are taken out of
    the peer, and all else is compared.
  * DiffLlama's norm of heads has no gains, which here are 1.
  * The Reformer divides keys by their length, `--projections=shared_qk` does
    not: left out.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from model.attention.mask import Causal, Segments, Window
from model.attention.normalizers.dense import SinkSoftmax, Softmax1
from model.attention.outputs.base import Gate
from model.attention.outputs.differential import NAMES, Differential
from model.attention.projections.latent import Mla
from model.attention.qk_norm import LayerQkNorm, RmsQkNorm
from model.attention.scale import NoScale
from model.position.base import T5, Rope
from peers.layers import (
  PEER,
  X_BTD,
  Sublayer,
  Tables,
  Weights,
  assert_agrees,
  matrix,
  torch,
)

pytestmark = pytest.mark.usefixtures('quick_compilation')

HEADS = {'query': 'q_proj', 'key': 'k_proj', 'value': 'v_proj'}


def test_torch_scaled_dot_product_attention() -> None:
  arch = dataclasses.replace(PEER, num_heads=4, num_kv_heads=2)
  peer = torch.nn.ModuleDict(
    {
      'q_proj': torch.nn.Linear(16, 32, bias=False),
      'k_proj': torch.nn.Linear(16, 16, bias=False),
      'v_proj': torch.nn.Linear(16, 16, bias=False),
      'o_proj': torch.nn.Linear(32, 16, bias=False),
    }
  )

  def run(x: Any) -> Any:
    q, k, v = (
      peer[name](x).unflatten(-1, (-1, 8)).transpose(1, 2)
      for name in HEADS.values()
    )
    heads = torch.nn.functional.scaled_dot_product_attention(
      q, k, v, is_causal=True, enable_gqa=True
    )
    return peer['o_proj'](heads.transpose(1, 2).flatten(2))

  assert_agrees(Sublayer(arch), peer, projections, run, exact=True)


@pytest.mark.parametrize('zero', [False, True], ids=['softmax', 'softmax1'])
def test_torch_multihead_attention(zero: bool) -> None:
  """A key of zeros with a value of zeros is the 1 in softmax1."""
  arch = dataclasses.replace(PEER, use_bias=True)
  if zero:
    arch = dataclasses.replace(arch, normalizer=Softmax1())
  peer = torch.nn.MultiheadAttention(
    16, 2, batch_first=True, add_zero_attn=zero
  )

  def weights(tables: Tables) -> Weights:
    own = tables['attention']
    biases = [own[f'{name}_bias'].ravel() for name in HEADS]
    return {
      'in_proj_weight': np.concatenate([matrix(own[name]) for name in HEADS]),
      'in_proj_bias': np.concatenate(biases),
      'out_proj.weight': matrix(own['out'], 2),
      'out_proj.bias': own['out_bias'],
    }

  future = torch.ones(6, 6).triu(1).bool()

  def run(x: Any) -> Any:
    return peer(x, x, x, attn_mask=future, need_weights=False)[0]

  assert_agrees(Sublayer(arch), peer, weights, run, exact=True)


# Decoders of transformers, which are built alike. -----------------------------


def projections(tables: Tables, out: str = 'o_proj') -> Weights:
  """Returns the weights of queries, keys and values, and W_O."""
  own = tables['attention']
  weights = {
    f'{peer}.weight': matrix(own[name]) for name, peer in HEADS.items()
  }
  weights[f'{out}.weight'] = matrix(own['out'], 2)
  for name, peer in (HEADS | {'out': out}).items():
    if f'{name}_bias' in own:
      weights[f'{peer}.bias'] = own[f'{name}_bias'].ravel()
  return weights


def qwen3(tables: Tables) -> Weights:
  gains = tables['qk_norm']
  return projections(tables) | {
    'q_norm.weight': gains['query'],
    'k_norm.weight': gains['key'],
  }


def qwen3_next(tables: Tables) -> Weights:
  """Returns weights of which each head of a query brings its gate."""
  own, gate, gains = (
    tables[part] for part in ('attention', 'output_gate', 'qk_norm')
  )
  both = np.concatenate([own['query'], gate['kernel']], -1)
  biases = np.concatenate([own['query_bias'], gate['bias']], -1)
  return projections(tables) | {
    'q_proj.weight': matrix(both),
    'q_proj.bias': biases.ravel(),
    # Their gains are what is added to 1.
    'q_norm.weight': gains['query'] - 1.0,
    'k_norm.weight': gains['key'] - 1.0,
  }


def phi(tables: Tables) -> Weights:
  gains = tables['qk_norm']
  return projections(tables, 'dense') | {
    'q_layernorm.weight': gains['query'],
    'q_layernorm.bias': np.zeros_like(gains['query']),
    'k_layernorm.weight': gains['key'],
    'k_layernorm.bias': np.zeros_like(gains['key']),
  }


def gpt_oss(tables: Tables) -> Weights:
  return projections(tables) | {'sinks': tables['normalizer']['sink']}


def deepseek(tables: Tables) -> Weights:
  """Returns weights that make two things at once, one beside the other."""
  own = tables['attention']

  def beside(first: str, second: str) -> np.ndarray:
    return matrix(np.concatenate([own[first], own[second]], -1))

  return {
    'q_a_proj.weight': matrix(own['query_latent']),
    'q_b_proj.weight': beside('query', 'query_rotated'),
    'kv_a_proj_with_mqa.weight': beside('latent', 'key_rotated'),
    'kv_b_proj.weight': beside('key', 'value'),
    'o_proj.weight': matrix(own['out'], 2),
  }


def diffllama(tables: Tables) -> Weights:
  """Returns weights with twice the heads: all first maps, then all second.

  Of values, the first halves and then the second.
  """
  own, vectors = tables['attention'], tables['output_differential']
  weights = projections(tables)
  for name, peer in HEADS.items():
    halves = np.split(own[name], 2, axis=-1)
    weights[f'{peer}.weight'] = matrix(np.concatenate(halves, axis=1))
  for name in NAMES:
    kind, number = name.split('_')
    weights[f'lambda_{kind[0]}{number}'] = vectors[name]
  return weights


class Family(NamedTuple):
  """An attention of transformers, and what it is to us.

  Attributes:
    module: where it is.
    prefix: of the names of its classes.
    settings: of its configuration, beside the sizes.
    change: of our architecture.
    weights: its weights, of ours.
    layer: number of the block.
    fixed: what of our parameters is not drawn, by part.
  """

  module: str
  prefix: str
  settings: Mapping[str, Any]
  change: Mapping[str, Any]
  weights: Callable[[Tables], Weights] = projections
  layer: int = 0
  fixed: Mapping[str, Any] = {}


WHOLE = {
  'rope_type': 'default',
  'rope_theta': 10_000.0,
  'partial_rotary_factor': 1.0,
}
FAMILIES: Mapping[str, Family] = {
  'llama': Family('llama', 'Llama', {}, {}),
  'soft cap': Family(
    'gemma2',
    'Gemma2',
    {'attn_logit_softcapping': 2.0, 'query_pre_attn_scalar': 8},
    {'logit_cap': 2.0},
  ),
  'window': Family(
    'mistral',
    'Mistral',
    {'sliding_window': 3},
    {'mask': (Causal(), Window(3))},
  ),
  'rms of q and k': Family(
    'qwen3',
    'Qwen3',
    {'rms_norm_eps': 1e-3},
    {'qk_norm': RmsQkNorm(1e-3)},
    qwen3,
  ),
  'layer norm of q and k': Family(
    'phi',
    'Phi',
    {
      'head_dim': 4,
      'qk_layernorm': True,
      'layer_norm_eps': 1e-3,
      'rope_parameters': WHOLE,
    },
    {'head_dim': 4, 'qk_norm': LayerQkNorm(1e-3), 'use_bias': True},
    phi,
  ),
  'gate': Family(
    'qwen3_next',
    'Qwen3Next',
    {'attention_bias': True, 'rms_norm_eps': 1e-3, 'rope_parameters': WHOLE},
    {'output': (Gate(),), 'qk_norm': RmsQkNorm(1e-3), 'use_bias': True},
    qwen3_next,
  ),
  'sink': Family(
    'gpt_oss',
    'GptOss',
    {'attention_bias': True},
    {'normalizer': SinkSoftmax(), 'use_bias': True},
    gpt_oss,
  ),
  'latent': Family(
    'deepseek_v3',
    'DeepseekV3',
    {
      'num_key_value_heads': 4,
      'head_dim': 4,
      'q_lora_rank': 5,
      'kv_lora_rank': 6,
      'qk_nope_head_dim': 8,
      'qk_rope_head_dim': 4,
      'v_head_dim': 8,
      'rope_interleave': False,
    },
    {
      'num_kv_heads': None,
      'projections': Mla(latent=6, rope_dim=4, query_latent=5),
    },
    deepseek,
  ),
  'differential': Family(
    'diffllama',
    'DiffLlama',
    {
      'num_attention_heads': 8,
      'num_key_value_heads': 4,
      'head_dim': 4,
      'rms_norm_eps': 1e-5,
    },
    {'output': (Differential(),)},
    diffllama,
    layer=1,
    fixed={'output_differential': {'scale': np.ones(8)}},
  ),
}
PACKED_BT = np.array([[0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3]])


@pytest.mark.parametrize('packed', [False, True], ids=['', 'packed'])
@pytest.mark.parametrize('name', FAMILIES)
def test_transformers(name: str, packed: bool) -> None:
  """Rotary, with grouped keys and values, alone and of packed documents."""
  pytest.importorskip('transformers')
  from transformers import masking_utils

  family = FAMILIES[name]
  module = f'transformers.models.{family.module}'
  configuration = importlib.import_module(
    f'{module}.configuration_{family.module}'
  )
  source = importlib.import_module(f'{module}.modeling_{family.module}')
  settings = getattr(configuration, f'{family.prefix}Config')(
    **{
      'hidden_size': 16,
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'head_dim': 8,
      'rope_parameters': {'rope_type': 'default', 'rope_theta': 10_000.0},
      'attn_implementation': 'eager',
    }
    | family.settings
  )
  change = {'num_kv_heads': 2} | family.change
  arch = dataclasses.replace(PEER, num_heads=4, position=Rope(), **change)
  places, segments_BT = torch.arange(6).expand(2, 6), None
  if packed:
    arch = dataclasses.replace(arch, mask=(*arch.masks, Segments()))
    places = torch.tensor(PACKED_BT)
    segments_BT = np.cumsum(PACKED_BT == 0, axis=1)
  peer = getattr(source, f'{family.prefix}Attention')(settings, family.layer)
  if name == 'latent':
    peer.q_a_layernorm = peer.kv_a_layernorm = torch.nn.Identity()
  rotary = getattr(source, f'{family.prefix}RotaryEmbedding')(settings)
  masked = masking_utils.create_causal_mask
  if name == 'window':
    masked = masking_utils.create_sliding_window_causal_mask
  mask = masked(settings, torch.tensor(X_BTD), None, None, places)

  def run(x: Any) -> Any:
    turns = rotary(x, places)
    return peer(x, position_embeddings=turns, attention_mask=mask)[0]

  # Their angles and softmax are in float32.
  sublayer = Sublayer(arch, family.layer, segments_BT, fixed=family.fixed)
  assert_agrees(sublayer, peer, family.weights, run)


def test_transformers_t5_bias() -> None:
  transformers = pytest.importorskip('transformers')
  from transformers.models.t5.modeling_t5 import T5Attention

  arch = dataclasses.replace(
    PEER, position=T5(buckets=6, max_distance=5), scale=NoScale()
  )
  settings = transformers.T5Config(
    d_model=16,
    d_kv=8,
    num_heads=2,
    relative_attention_num_buckets=6,
    relative_attention_max_distance=5,
    is_decoder=True,
  )
  peer = T5Attention(settings, has_relative_attention_bias=True, layer_idx=0)

  def weights(tables: Tables) -> Weights:
    own = tables['attention']
    return {
      'q.weight': matrix(own['query']),
      'k.weight': matrix(own['key']),
      'v.weight': matrix(own['value']),
      'o.weight': matrix(own['out'], 2),
      'relative_attention_bias.weight': tables['position']['bias'],
    }

  future = torch.full((6, 6), -np.inf).double().triu(1)[None, None]

  def run(x: Any) -> Any:
    return peer(x, mask=future)[0]

  assert_agrees(Sublayer(arch), peer, weights, run, exact=True)
