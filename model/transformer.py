"""The transformer as pure functions: `init`, `apply` and `decode_step`."""

import jax
import jax.numpy as jnp

from model.architecture.architecture import Architecture
from model.architecture.family import check_head_gates
from model.cache import Cache
from model.core.inputs import EVERY_HEAD, HeadGates, ModelInputs
from model.core.parameter import Dims, Params, key_of, sample, unflatten
from model.core.side_output import NOTHING, Request
from model.interfaces import Call, ModelResult, NetworkOutput


def init(arch: Architecture, dims: Dims, key: jax.Array) -> Params:
  """Returns the initial parameters, with layers stacked along a first axis.

  Each parameter is a function of the key, its path and its shape.  The random
  draw of layer l does not depend on the number of layers, though its scale may.
  """
  params = {}
  groups = {group.name: group for group in arch.groups}
  for path, spec in arch.parameter_table(dims).items():
    first, _, rest = path.partition('/')
    if (group := groups.get(first)) is None:
      own = key_of(path, key)
      params[path] = sample(arch.init, own, spec, dims.num_layers)
      continue
    # The same layer number gives the same values with and without a pattern.
    own, depth = (
      key_of(f'{group.stack.name}/{rest}', key),
      group.stack.num_layers,
    )
    params[path] = jax.vmap(
      lambda layer, own=own, spec=spec, depth=depth: sample(
        arch.init, jax.random.fold_in(own, layer), spec, depth
      )
    )(jnp.asarray(group.numbers))
  return unflatten(params)


def apply(
  arch: Architecture,
  dims: Dims,
  params: Params,
  inputs: ModelInputs,
  rngs_B: jax.Array | None = None,
  wanted: Request = NOTHING,
  head_gates: HeadGates = EVERY_HEAD,
) -> NetworkOutput:
  """Runs the model on a batch of tokens or vectors.

  Args:
    arch: the architecture; its traced numbers may be tracers.
    dims: sizes of the axes.
    params: parameters, as from `init`; they are cast to `arch.dtype`.
    inputs: tokens or vectors, their segments (for the masks `segments` and
      `padding`), and the source of an encoder-decoder.
    rngs_B: one PRNG key per example, for dropout; `None` in evaluation.
    wanted: side outputs to return, of those that are returned only on request.
    head_gates: factors of the outputs of heads; differentiable.

  Raises:
    ValueError: `head_gates` do not match the heads of the model.
  """
  check_head_gates(head_gates, arch.stacks, dims)
  call = Call(rngs_B, head_gates, wanted=wanted)
  return _run(arch, dims, params, inputs, call).output


def decode_step(
  arch: Architecture,
  dims: Dims,
  params: Params,
  inputs: ModelInputs,
  cache: Cache,
) -> tuple[NetworkOutput, Cache]:
  """Runs the model on the next tokens after those in a cache.

  The output equals that of `apply` on the whole sequence at these positions.
  The cache must have room for the tokens, which is not checked because its
  index may be traced.  The prefix of --mask=prefix must come in one step; with
  segments, so must the prefix of each document.  Side outputs of the last stack
  are not returned.

  Args:
    arch: an architecture for which `cache.decoding_problem` returns `None`.
    dims: sizes of the axes.
    params: parameters, as from `init`.
    inputs: tokens and their segments; in the first step also the source of an
      encoder-decoder, whose keys the cache then holds.
    cache: cache from `cache.empty` or from the step before.

  Returns:
    The output at the new positions, and the updated cache.
  """
  result = _run(arch, dims, params, inputs, Call(cache=cache))
  assert result.cache is not None
  return result.output, result.cache


def _run(
  arch: Architecture,
  dims: Dims,
  params: Params,
  inputs: ModelInputs,
  call: Call,
) -> ModelResult:
  from model.network import Transformer  # Flax: not to list or check flags

  cast = jax.tree.map(lambda p: _cast(p, arch.dtype), params)
  if inputs.vectors_BTI is not None:
    vectors_BTI = _cast(inputs.vectors_BTI, arch.dtype)
    inputs = inputs._replace(vectors_BTI=vectors_BTI)
  out = Transformer(arch, dims).apply({'params': cast}, inputs, call)
  assert isinstance(out, ModelResult)
  return out


def _cast(p: jax.Array, dtype: str) -> jax.Array:
  # float64 parameters mean that a test wants float64 throughout.
  if p.dtype == jnp.float64:
    return p
  return p.astype(dtype)
