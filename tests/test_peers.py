"""Other implementations of the same mathematics, where they are installed.

Each gives the output of one attention sub-layer from the same weights, in
float64; what an implementation does in float32 inside sets the tolerance.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.architecture import Architecture
from model.mixer import Context, Layer, Mixer
from model.normalizer import Sink, TopK
from model.output import TalkingHeads
from model.position import T5, Rope
from model.qk_norm import L2QkNorm
from model.scale import NoScale
from model.score import L2
from model.sparse import Hard
from test_reference import BASE, assert_exact, dims_of, drawn_params, draws
from tolerance import assert_close

torch = pytest.importorskip('torch', exc_type=ImportError)
PEER = dataclasses.replace(BASE, d_model=16, num_heads=2, head_dim=8)
X_BTD = draws(2, 6, 16)


def drawn(arch: Architecture) -> dict[str, dict[str, np.ndarray]]:
  """Returns numbers for each part of a block, and for positions."""
  tables = arch.block_tables(dims_of(arch)) | {
    'position': arch.position.params(dims_of(arch))
  }
  return {part: drawn_params(table) for part, table in tables.items()}


def ours(
  arch: Architecture, tables: Mapping[str, Mapping[str, np.ndarray]]
) -> np.ndarray:
  """Returns out_BTD of the sub-layer."""
  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, dict(tables))
    mixer = Mixer(arch, dims_of(arch), arch.parts, given, arch.backend)
    context = Context(
      jnp.arange(6), None, given['position'], None, jnp.asarray(0), None
    )
    layer = Layer(jnp.asarray(0), None, None, None, None)
    out = mixer(jnp.asarray(X_BTD), None, layer, context, None).out_BTD
    return np.asarray(out)


def matrix(kernel: np.ndarray, inputs: int = 1) -> Any:
  """Returns the weight of a torch.nn.Linear."""
  width = int(np.prod(kernel.shape[:inputs]))
  return torch.tensor(kernel.reshape(width, -1).T.copy())


def given_x() -> Any:
  return torch.tensor(X_BTD)


def test_torch_scaled_dot_product_attention() -> None:
  arch = dataclasses.replace(PEER, num_heads=4, num_kv_heads=2)
  tables = drawn(arch)
  own = tables['attention']
  q, k, v = (
    (given_x() @ matrix(own[name]).T).unflatten(-1, (-1, 8)).transpose(1, 2)
    for name in ('query', 'key', 'value')
  )
  heads = torch.nn.functional.scaled_dot_product_attention(
    q, k, v, is_causal=True, enable_gqa=True
  )
  theirs = heads.transpose(1, 2).flatten(2) @ matrix(own['out'], 2).T
  assert_exact(ours(arch, tables), theirs.numpy())


def test_torch_multihead_attention() -> None:
  arch = dataclasses.replace(PEER, use_bias=True)
  tables = drawn(arch)
  own = tables['attention']
  peer = torch.nn.MultiheadAttention(16, 2, batch_first=True).double()
  names = ('query', 'key', 'value')
  biases = [own[f'{name}_bias'].ravel() for name in names]
  peer.load_state_dict(
    {
      'in_proj_weight': torch.cat([matrix(own[name]) for name in names]),
      'in_proj_bias': torch.tensor(np.concatenate(biases)),
      'out_proj.weight': matrix(own['out'], 2),
      'out_proj.bias': torch.tensor(own['out_bias']),
    }
  )
  future = torch.ones(6, 6).triu(1).bool()
  x = given_x()
  with torch.no_grad():
    theirs, _ = peer(x, x, x, attn_mask=future, need_weights=False)
  assert_exact(ours(arch, tables), theirs.numpy())


def causal_bias() -> Any:
  """Returns 0 where a query sees a key, and else the lowest number."""
  lowest = torch.finfo(torch.float32).min
  return torch.full((6, 6), lowest).double().triu(1)[None, None]


@pytest.mark.parametrize('family', ['llama', 'gemma2'])
def test_transformers_rotary_grouped_capped(family: str) -> None:
  """Llama: rotary positions, grouped keys.  Gemma 2: a soft cap besides."""
  transformers = pytest.importorskip('transformers')
  arch = dataclasses.replace(
    PEER, num_heads=4, num_kv_heads=2, position=Rope(theta=10_000.0)
  )
  sizes = {
    'hidden_size': 16,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'attn_implementation': 'eager',
  }
  if family == 'llama':
    from transformers.models.llama import modeling_llama as source

    settings = transformers.LlamaConfig(**sizes)
    rotary = source.LlamaRotaryEmbedding(settings)
    peer = source.LlamaAttention(settings, 0)
  else:
    from transformers.models.gemma2 import modeling_gemma2 as source

    arch = dataclasses.replace(arch, logit_cap=2.0)
    settings = transformers.Gemma2Config(
      **sizes, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
    )
    rotary = source.Gemma2RotaryEmbedding(settings)
    peer = source.Gemma2Attention(settings, 0)
  tables = drawn(arch)
  own = tables['attention']
  peer.double().eval().load_state_dict(
    {
      'q_proj.weight': matrix(own['query']),
      'k_proj.weight': matrix(own['key']),
      'v_proj.weight': matrix(own['value']),
      'o_proj.weight': matrix(own['out'], 2),
    }
  )
  with torch.no_grad():
    places = rotary(given_x(), torch.arange(6)[None])
    theirs = peer(given_x(), places, causal_bias())[0]
  # Their angles and softmax are in float32.
  assert_close(np.float32(ours(arch, tables)), theirs.numpy(), 64)


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
  tables = drawn(arch)
  own = tables['attention']
  peer = T5Attention(
    settings, has_relative_attention_bias=True, layer_idx=0
  ).double()
  peer.eval().load_state_dict(
    {
      'q.weight': matrix(own['query']),
      'k.weight': matrix(own['key']),
      'v.weight': matrix(own['value']),
      'o.weight': matrix(own['out'], 2),
      'relative_attention_bias.weight': torch.tensor(
        tables['position']['bias']
      ),
    }
  )
  with torch.no_grad():
    theirs = peer(given_x(), mask=causal_bias())[0]
  assert_exact(ours(arch, tables), theirs.numpy())


X_TRANSFORMERS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
  'plain': ({}, {}),
  'soft cap': (
    {'logit_cap': 2.0},
    {'softclamp_logits': True, 'logit_softclamp_value': 2.0},
  ),
  'sink': ({'normalizer': Sink()}, {'head_learned_sink': True}),
  'top-k': ({'normalizer': TopK(3)}, {'sparse_topk': 3}),
  'hard': ({'normalizer': Hard()}, {'hard': True}),
  'distance': ({'score': L2()}, {'l2_distance': True}),
  'unit length': (
    {'qk_norm': L2QkNorm(start=10.0, eps=0.0), 'scale': NoScale()},
    {'qk_norm': True, 'qk_norm_scale': 10},
  ),
  'talking heads': (
    {'output': (TalkingHeads(),)},
    {'pre_talking_heads': True, 'post_talking_heads': True},
  ),
}


@pytest.mark.parametrize('name', X_TRANSFORMERS)
def test_x_transformers(name: str) -> None:
  source = pytest.importorskip('x_transformers.x_transformers')
  change, options = X_TRANSFORMERS[name]
  arch = dataclasses.replace(PEER, **change)
  tables = drawn(arch)
  if 'qk_norm' in change:
    tables['qk_norm']['gain'] = np.ones(())
  own = tables['attention']
  peer = source.Attention(16, dim_head=8, heads=2, causal=True, **options)
  weights = {
    'to_q.weight': matrix(own['query']),
    'to_k.weight': matrix(own['key']),
    'to_v.weight': matrix(own['value']),
    'to_out.weight': matrix(own['out'], 2),
  }
  if name == 'sink':
    weights['attend.head_attn_sink'] = torch.tensor(
      tables['normalizer']['sink']
    )
  if name == 'talking heads':
    for half, when in (('logits', 'pre'), ('weights', 'post')):
      kernel = tables['output_talking_heads'][half].T
      # Theirs adds what it mixes before the softmax, and not what after it.
      kernel = kernel + (np.eye(2) if when == 'post' else 0.0)
      weights[f'attend.{when}_softmax_talking_heads.weight'] = torch.tensor(
        kernel[..., None, None]
      )
  peer.double().eval().load_state_dict(weights)
  with torch.no_grad():
    theirs = peer(given_x())
  theirs = theirs[0] if isinstance(theirs, tuple) else theirs
  assert_close(np.float32(ours(arch, tables)), theirs.numpy(), 64)
