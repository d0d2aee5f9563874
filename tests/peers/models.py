"""What the comparisons with whole models share: names, logits, gradients."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.architecture.architecture import Architecture
from model.architecture.family import BLOCKS, ENCODER, Encoder
from model.core.inputs import ModelInputs, Source
from model.layers.feedforward import Mlp
from peers.layers import PEER, Weights, load, matrix, torch
from spec.architectures import dims_of, draws, stacked_params
from spec.tolerance import assert_close
from train.core.trees import flatten, unflatten

WIDTH, LAYERS = 24, 2
MODEL = dataclasses.replace(
  PEER, num_layers=LAYERS, feedforward=Mlp(width=WIDTH), tie_embeddings=True
)
# No token 0, which peers take for padding: its embedding has no gradient.
TOKENS_BT = np.array([[3, 1, 4, 1, 5, 6], [2, 6, 5, 3, 4, 4]])
SEGMENTS_BT = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
SOURCE_BS = np.array([[2, 5, 1, 3], [6, 4, 1, 2]])
SOURCE_SEGMENTS_BS = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
PULL_BTV = draws(2, 6, 7, seed=2)
SIDES = {'encoder': ENCODER, 'decoder': BLOCKS}
PARTS = ('query', 'key', 'value', 'out')
Params = dict[str, np.ndarray]  # by path, layers along a first axis


class Peer(NamedTuple):
  """A model, and what it is to us.

  Attributes:
    arch: our choices.
    module: the model.
    run: the logits of the model.
    weights: all its weights, of our parameters; or gradients, of ours.
    exact: it computes in float64 throughout.
    own: names of weights that it keeps.
    fixed: what of our parameters is not drawn, by path.
  """

  arch: Architecture
  module: Any
  run: Callable[[Any], Any]
  weights: Callable[[Params], Weights]
  exact: bool = True
  own: tuple[str, ...] = ()
  fixed: Mapping[str, np.ndarray] = {}


# From our names to theirs. ----------------------------------------------------


def block(params: Params, stack: str, layer: int) -> Params:
  """Returns the parameters of one block, by their paths in it."""
  return {
    path.removeprefix(f'{stack}/'): x[layer]
    for path, x in params.items()
    if path.startswith(f'{stack}/')
  }


def linear(name: str, own: Params, path: str, inputs: int = 1) -> Weights:
  """Returns a torch.nn.Linear, of a name, made of the matrix at a path."""
  weights = {f'{name}.weight': matrix(own[path], inputs)}
  if f'{path}_bias' in own:
    weights[f'{name}.bias'] = own[f'{path}_bias'].ravel()
  return weights


def heads(
  prefix: str, names: str, own: Params, attention: str = 'attention'
) -> Weights:
  """Returns queries, keys, values and W_O, whose names are listed so."""
  weights: Weights = {}
  for name, theirs in zip(PARTS, names.split(), strict=True):
    inputs = 2 if name == 'out' else 1
    weights |= linear(f'{prefix}.{theirs}', own, f'{attention}/{name}', inputs)
  return weights


def joined(
  name: str, own: Params, attention: str = 'attention', dot: str = '.'
) -> Weights:
  """Returns queries, keys and values as one torch.nn.Linear."""
  parts = [linear('', own, f'{attention}/{part}') for part in PARTS[:3]]
  return {
    f'{name}{dot}{kind[1:]}': np.concatenate([part[kind] for part in parts])
    for kind in parts[0]
  }


def norm(name: str, own: Params, path: str) -> Weights:
  weights = {f'{name}.weight': own[f'{path}/scale']}
  if f'{path}/bias' in own:
    weights[f'{name}.bias'] = own[f'{path}/bias']
  return weights


def between(body: Any) -> Any:
  """Returns a module between an embedding and an unembedding."""
  return torch.nn.ModuleDict(
    {
      'embed': torch.nn.Embedding(7, 16),
      'body': body,
      'head': torch.nn.Linear(16, 7, bias=False),
    }
  )


def ends(params: Params) -> Weights:
  """Returns the embedding and the unembedding."""
  return {
    'embed.weight': params['embedding/token'],
    'head.weight': params['unembedding/kernel'].T,
  }


def bart_block(at: str, own: Params) -> Weights:
  names = 'q_proj k_proj v_proj out_proj'
  found = linear(f'{at}.fc1', own, 'feedforward/up')
  found |= linear(f'{at}.fc2', own, 'feedforward/down')
  found |= norm(f'{at}.final_layer_norm', own, 'norm_feedforward')
  found |= heads(f'{at}.self_attn', names, own)
  found |= norm(f'{at}.self_attn_layer_norm', own, 'norm_attention')
  if 'norm_cross/scale' in own:
    found |= heads(f'{at}.encoder_attn', names, own, 'cross_attention')
    found |= norm(f'{at}.encoder_attn_layer_norm', own, 'norm_cross')
  return found


# Both. ------------------------------------------------------------------------


def ours(arch: Architecture, params: Params) -> tuple[np.ndarray, Params]:
  """Returns logits, and gradients by path, in float64."""
  segments_BT = SEGMENTS_BT if isinstance(arch.model, Encoder) else None
  source = None
  if arch.model.traits.has_source:
    source = Source(jnp.asarray(SOURCE_BS), jnp.asarray(SOURCE_SEGMENTS_BS))

  def run(params: transformer.Params) -> jax.Array:
    return transformer.apply(
      arch,
      dims_of(arch),
      params,
      ModelInputs(
        jnp.asarray(TOKENS_BT), segments_BT=segments_BT, source=source
      ),
    ).logits_BTV

  @jax.jit
  def both(
    params: transformer.Params,
  ) -> tuple[jax.Array, tuple[transformer.Params]]:
    logits_BTV, pull = jax.vjp(run, params)
    return logits_BTV, pull(jnp.asarray(PULL_BTV))

  with jax.enable_x64(True):
    logits_BTV, (grads,) = both(jax.tree.map(jnp.asarray, unflatten(params)))
    found = {path: np.asarray(grad) for path, grad in flatten(grads).items()}
    return np.asarray(logits_BTV), found


def assert_agrees(peer: Peer) -> None:
  """Fails unless logits and gradients are those of ours."""
  params = stacked_params(peer.arch) | peer.fixed
  logits_BTV, grads = ours(peer.arch, params)
  load(peer.module, peer.weights(params), peer.own)
  expected_BTV = peer.run(peer.module)
  expected_BTV.backward(torch.tensor(PULL_BTV))
  dtype = np.float64 if peer.exact else np.float32

  def compare(actual: Any, expected: Any, scale: float | None = None) -> None:
    assert_close(dtype(actual), expected, 64, scale=scale)

  compare(logits_BTV, expected_BTV.detach().numpy())
  found = peer.weights(grads)
  # Some are 0 but for rounding: the bias of keys moves all logits alike.
  scale = max(float(np.abs(grad).max()) for grad in found.values())
  for name, weight in peer.module.named_parameters():
    if weight.requires_grad:
      compare(found[name], weight.grad.numpy(), scale)
