"""Whole models of PyTorch, transformers and x-transformers, where installed.

The logits of all positions are compared, and the gradient of each weight that
the peer has.  A peer that embeds nothing, or predicts nothing, is put between
our embedding and our unembedding.  Where definitions differ:

  * Marian has its sines in the first half of the units and its cosines in the
    second, we have them in turn: the units of its residual are in that order.
  * The decoder of T5 has biases in one direction and its encoder in two,
    `--position=t5` has one for both: the encoder alone is compared.
  * BERT and BART normalise embeddings: of BERT the blocks are compared, in the
    place of BART are Blenderbot (norm before) and Marian (norm after).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.architecture.architecture import Architecture
from model.architecture.family import BLOCKS, ENCODER, Encoder, EncoderDecoder
from model.attention.outputs.mixtures import ValueResidual
from model.attention.scale import NoScale
from model.layers.feedforward import Mlp
from model.layers.norm import LayerNorm, RmsNorm
from model.layers.residual import PostNorm
from model.position.base import T5, Alibi, NoPosition, Sinusoidal
from peers.layers import Weights, torch
from peers.models import (
  LAYERS,
  MODEL,
  SEGMENTS_BT,
  SIDES,
  SOURCE_BS,
  SOURCE_SEGMENTS_BS,
  TOKENS_BT,
  WIDTH,
  Params,
  Peer,
  assert_agrees,
  bart_block,
  between,
  block,
  ends,
  heads,
  joined,
  linear,
  norm,
)
from spec.architectures import dims_of

pytestmark = pytest.mark.usefixtures('quick_compilation')


def torch_transformer() -> Peer:
  """Encoder and decoder, norms before the sub-layers and at the end."""
  arch = dataclasses.replace(
    MODEL,
    model=EncoderDecoder(),
    position=NoPosition(),
    use_bias=True,
    tie_embeddings=False,
  )
  body = torch.nn.Transformer(
    16, 2, LAYERS, LAYERS, WIDTH, 0.0, 'gelu', batch_first=True, norm_first=True
  )

  def run(module: Any) -> Any:
    padding = torch.tensor(SOURCE_SEGMENTS_BS == 0)
    embed = module['embed']
    states = module['body'](
      embed(torch.tensor(SOURCE_BS)),
      embed(torch.tensor(TOKENS_BT)),
      tgt_mask=torch.ones(6, 6).triu(1).bool(),
      src_key_padding_mask=padding,
      memory_key_padding_mask=padding,
    )
    return module['head'](states)

  def weights(params: Params) -> Weights:
    found = ends(params)
    for side, stack in SIDES.items():
      for n in range(LAYERS):
        own, at = block(params, stack, n), f'body.{side}.layers.{n}'
        attentions = {'self_attn': 'attention'}
        norms = ['attention', 'feedforward']
        if side == 'decoder':
          attentions['multihead_attn'] = 'cross_attention'
          norms.insert(1, 'cross')
        for theirs, part in attentions.items():
          found |= joined(f'{at}.{theirs}.in_proj', own, part, '_')
          found |= linear(f'{at}.{theirs}.out_proj', own, f'{part}/out', 2)
        for i, part in enumerate(norms, start=1):
          found |= norm(f'{at}.norm{i}', own, f'norm_{part}')
        found |= linear(f'{at}.linear1', own, 'feedforward/up')
        found |= linear(f'{at}.linear2', own, 'feedforward/down')
    found |= norm('body.encoder.norm', params, 'norm_encoder')
    return found | norm('body.decoder.norm', params, 'norm_final')

  return Peer(arch, between(body), run, weights)


def gpt2() -> Peer:
  """Learned positions, a norm before each sub-layer, tied embeddings."""
  import transformers

  settings = transformers.GPT2Config(
    vocab_size=7,
    n_positions=6,
    n_embd=16,
    n_layer=LAYERS,
    n_head=2,
    n_inner=WIDTH,
    activation_function='gelu',
    bos_token_id=None,
    eos_token_id=None,
    attn_implementation='eager',
  )

  def weights(params: Params) -> Weights:
    table = params['embedding/token']
    found = {'transformer.wte.weight': table, 'lm_head.weight': table}
    found['transformer.wpe.weight'] = params['position/table']
    for n in range(LAYERS):
      own, at = block(params, BLOCKS, n), f'transformer.h.{n}'
      linears = joined(f'{at}.attn.c_attn', own)
      linears |= linear(f'{at}.attn.c_proj', own, 'attention/out', 2)
      linears |= linear(f'{at}.mlp.c_fc', own, 'feedforward/up')
      linears |= linear(f'{at}.mlp.c_proj', own, 'feedforward/down')
      # They have the inputs first.
      found |= {name: x.T for name, x in linears.items()}
      found |= norm(f'{at}.ln_1', own, 'norm_attention')
      found |= norm(f'{at}.ln_2', own, 'norm_feedforward')
    return found | norm('transformer.ln_f', params, 'norm_final')

  return Peer(
    dataclasses.replace(MODEL, use_bias=True),
    transformers.GPT2LMHeadModel(settings),
    lambda module: module(torch.tensor(TOKENS_BT)).logits,
    weights,
  )


def mpt() -> Peer:
  """ALiBi of three heads, no biases, tied embeddings."""
  import transformers

  settings = transformers.MptConfig(
    d_model=24, n_heads=3, n_layers=LAYERS, vocab_size=7, max_seq_len=6
  )
  arch = dataclasses.replace(
    MODEL, d_model=24, num_heads=3, position=Alibi(), feedforward=Mlp()
  )

  def weights(params: Params) -> Weights:
    table = params['embedding/token']
    found = {'transformer.wte.weight': table, 'lm_head.weight': table}
    for n in range(LAYERS):
      own, at = block(params, BLOCKS, n), f'transformer.blocks.{n}'
      found |= joined(f'{at}.attn.Wqkv', own)
      found |= linear(f'{at}.attn.out_proj', own, 'attention/out', 2)
      found |= linear(f'{at}.ffn.up_proj', own, 'feedforward/up')
      found |= linear(f'{at}.ffn.down_proj', own, 'feedforward/down')
      found |= norm(f'{at}.norm_1', own, 'norm_attention')
      found |= norm(f'{at}.norm_2', own, 'norm_feedforward')
    return found | norm('transformer.norm_f', params, 'norm_final')

  # Their softmax is in float32.
  return Peer(
    arch,
    transformers.MptForCausalLM(settings),
    lambda module: module(torch.tensor(TOKENS_BT)).logits,
    weights,
    exact=False,
  )


def bert() -> Peer:
  """Sees both sides but no padding; a norm behind each sub-layer."""
  import transformers
  from transformers.masking_utils import create_bidirectional_mask
  from transformers.models.bert.modeling_bert import BertLayer

  arch = dataclasses.replace(
    MODEL,
    model=Encoder(),
    position=NoPosition(),
    norm=LayerNorm(1e-3),
    residual=PostNorm(),
    use_bias=True,
    tie_embeddings=False,
  )
  settings = transformers.BertConfig(
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=WIDTH,
    layer_norm_eps=1e-3,
    attn_implementation='eager',
  )
  layers = [BertLayer(settings) for _ in range(LAYERS)]

  def run(module: Any) -> Any:
    states = module['embed'](torch.tensor(TOKENS_BT))
    seen = torch.tensor(SEGMENTS_BT != 0)
    mask = create_bidirectional_mask(settings, states, seen)
    for layer in module['body']:
      states = layer(states, mask)
    return module['head'](states)

  def weights(params: Params) -> Weights:
    found = ends(params)
    names = 'self.query self.key self.value output.dense'
    for n in range(LAYERS):
      own, at = block(params, BLOCKS, n), f'body.{n}'
      found |= heads(f'{at}.attention', names, own)
      found |= norm(f'{at}.attention.output.LayerNorm', own, 'norm_attention')
      found |= linear(f'{at}.intermediate.dense', own, 'feedforward/up')
      found |= linear(f'{at}.output.dense', own, 'feedforward/down')
      found |= norm(f'{at}.output.LayerNorm', own, 'norm_feedforward')
    return found

  return Peer(arch, between(torch.nn.ModuleList(layers)), run, weights)


def t5() -> Peer:
  """Biases of the distance, both ways; mean squares; no biases; ReLU."""
  import transformers

  arch = dataclasses.replace(
    MODEL,
    model=Encoder(),
    position=T5(buckets=8, max_distance=5, bidirectional=True),
    scale=NoScale(),
    norm=RmsNorm(1e-3),
    feedforward=Mlp('relu', width=WIDTH),
    tie_embeddings=False,
  )
  settings = transformers.T5Config(
    vocab_size=7,
    d_model=16,
    d_kv=8,
    d_ff=WIDTH,
    num_layers=LAYERS,
    num_heads=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=5,
    layer_norm_epsilon=1e-3,
  )

  def run(module: Any) -> Any:
    given = torch.tensor(TOKENS_BT), torch.tensor(SEGMENTS_BT != 0)
    return module['head'](module['body'](*given).last_hidden_state)

  def weights(params: Params) -> Weights:
    names = ['body.shared.weight', 'body.encoder.embed_tokens.weight']
    found = dict.fromkeys(names, params['embedding/token'])
    found['head.weight'] = params['unembedding/kernel'].T
    for n in range(LAYERS):
      own, at = block(params, BLOCKS, n), f'body.encoder.block.{n}.layer'
      found |= heads(f'{at}.0.SelfAttention', 'q k v o', own)
      found |= norm(f'{at}.0.layer_norm', own, 'norm_attention')
      found |= linear(f'{at}.1.DenseReluDense.wi', own, 'feedforward/up')
      found |= linear(f'{at}.1.DenseReluDense.wo', own, 'feedforward/down')
      found |= norm(f'{at}.1.layer_norm', own, 'norm_feedforward')
    biases = 'body.encoder.block.0.layer.0.SelfAttention'
    found[f'{biases}.relative_attention_bias.weight'] = params['position/bias']
    return found | norm('body.encoder.final_layer_norm', params, 'norm_final')

  # Their softmax and mean squares are in float32.
  body = transformers.T5EncoderModel(settings)
  head = torch.nn.Linear(16, 7, bias=False)
  module = torch.nn.ModuleDict({'body': body, 'head': head})
  return Peer(arch, module, run, weights, exact=False)


def blenderbot() -> Peer:
  """Encoder and decoder, learned positions, norms before the sub-layers."""
  arch = dataclasses.replace(MODEL, model=EncoderDecoder(), use_bias=True)
  return bart('Blenderbot', arch, 'gelu')


def marian() -> Peer:
  """The transformer of 2017: sines and cosines, norms behind the sub-layers."""
  arch = dataclasses.replace(
    MODEL,
    model=EncoderDecoder(),
    position=Sinusoidal(),
    residual=PostNorm(),
    feedforward=Mlp('relu', width=WIDTH),
    scale_embeddings=True,
    use_bias=True,
  )
  peer = bart('Marian', arch, 'relu')
  table = arch.parameter_table(dims_of(arch))
  order = [*range(0, 16, 2), *range(1, 16, 2)]

  def weights(params: Params) -> Weights:
    reordered = {}
    for path, x in params.items():
      first = 0 if arch.depth(path) is None else 1
      letters = table[path].letters
      for axis, letter in enumerate(letters, start=first):
        x = x.take(order, axis) if letter == 'D' else x
      reordered[path] = x
    return peer.weights(reordered)

  # Their sines are in float32.
  return peer._replace(weights=weights, exact=False)


def bart(kind: str, arch: Architecture, activation: str) -> Peer:
  """Returns an encoder and a decoder whose parts are named as in BART."""
  import transformers

  settings = getattr(transformers, f'{kind}Config')(
    vocab_size=7,
    d_model=16,
    encoder_layers=LAYERS,
    decoder_layers=LAYERS,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=WIDTH,
    decoder_ffn_dim=WIDTH,
    max_position_embeddings=6,
    pad_token_id=0,
    decoder_start_token_id=0,
    activation_function=activation,
    scale_embedding=arch.scale_embeddings,
    attn_implementation='eager',
  )
  family = {'Blenderbot': 'ForConditionalGeneration', 'Marian': 'MTModel'}
  model = getattr(transformers, f'{kind}{family[kind]}')(settings)

  def run(module: Any) -> Any:
    return module(
      input_ids=torch.tensor(SOURCE_BS),
      attention_mask=torch.tensor(SOURCE_SEGMENTS_BS),
      decoder_input_ids=torch.tensor(TOKENS_BT),
    ).logits

  def weights(params: Params) -> Weights:
    tied = ['shared', 'encoder.embed_tokens', 'decoder.embed_tokens']
    names = ['lm_head.weight', *(f'model.{name}.weight' for name in tied)]
    found = dict.fromkeys(names, params['embedding/token'])
    for side, stack, place, last in (
      ('encoder', ENCODER, f'position_{ENCODER}', f'norm_{ENCODER}'),
      ('decoder', BLOCKS, 'position', 'norm_final'),
    ):
      if f'{place}/table' in params:
        positions = f'model.{side}.embed_positions.weight'
        found[positions] = params[f'{place}/table']
      for n in range(LAYERS):
        at = f'model.{side}.layers.{n}'
        found |= bart_block(at, block(params, stack, n))
      if arch.residual.traits.final_norm:
        found |= norm(f'model.{side}.layer_norm', params, last)
    return found

  own = ['final_logits_bias']  # zeros
  if kind == 'Marian':
    own += [f'model.{side}.embed_positions.weight' for side in SIDES]
  return Peer(arch, model, run, weights, own=tuple(own))


def x_transformers() -> Peer:
  """Values of the first of three layers in the two others."""
  source = pytest.importorskip('x_transformers')
  arch = dataclasses.replace(
    MODEL,
    num_layers=3,
    position=NoPosition(),
    output=(ValueResidual(),),
    feedforward=Mlp(),
    tie_embeddings=False,
  )
  body = source.Decoder(
    dim=16,
    depth=3,
    heads=2,
    attn_dim_head=8,
    add_value_residual=True,
    learned_value_residual_mix=False,
    ff_no_bias=True,
    norm_add_unit_offset=False,
  )

  def run(module: Any) -> Any:
    states = module['embed'](torch.tensor(TOKENS_BT))
    return module['head'](module['body'](states))

  def weights(params: Params) -> Weights:
    found = ends(params)
    for n in range(3):
      own, at = block(params, BLOCKS, n), 'body.layers'
      found[f'{at}.{2 * n}.0.0.gamma'] = own['norm_attention/scale']
      found |= heads(f'{at}.{2 * n}.1', 'to_q to_k to_v to_out', own)
      found[f'{at}.{2 * n + 1}.0.0.gamma'] = own['norm_feedforward/scale']
      found |= linear(f'{at}.{2 * n + 1}.1.ff.0.0', own, 'feedforward/up')
      found |= linear(f'{at}.{2 * n + 1}.1.ff.2', own, 'feedforward/down')
    return found | {'body.final_norm.gamma': params['norm_final/scale']}

  mean = {
    f'blocks/output_value_residual/{name}': np.ones(3)
    for name in ('first', 'own')
  }
  # Their softmax is in float32.
  return Peer(arch, between(body), run, weights, exact=False, fixed=mean)


@pytest.mark.filterwarnings('ignore:enable_nested_tensor')
@pytest.mark.parametrize(
  'make',
  [torch_transformer, gpt2, mpt, bert, t5, blenderbot, marian, x_transformers],
  ids=lambda make: make.__name__,
)
def test_model(make: Callable[[], Peer]) -> None:
  if make not in (torch_transformer, x_transformers):
    pytest.importorskip('transformers')
  assert_agrees(make())
