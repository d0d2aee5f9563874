"""Architectures that hold every choice, and numbers for their parameters."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from model.architecture.architecture import Architecture
from model.architecture.family import Classifier
from model.attention.mask import Causal
from model.attention.normalizers.dense import Softmax1
from model.attention.outputs.mixtures import ExclusiveSelf
from model.backends.kernels import FusedKernel
from model.core.field import (
  FieldError,
  Variant,
  field_types,
  meta_of,
  variant_list,
  variants,
)
from model.core.inputs import Source
from model.core.parameter import Dims, Param
from model.interfaces import NetworkOutput
from model.layers.feedforward import NoFeedForward
from model.layers.norm import NoNorm
from model.layers.residual import NoResidual
from model.position.base import Rope
from spec.mixtures import Drawn, mixtures
from train.core.trees import unflatten

SEQ_LEN, VOCABULARY = 6, 7


def unions(record: type) -> dict[str, dict[str, type[Variant]]]:
  """Returns `{field: {tag: class}}` of every choice of a record class."""
  found = {}
  for name, hint in field_types(record).items():
    if choices := variants(hint) or variant_list(hint):
      found[name] = choices
  return found


def examples(cls: type[Variant]) -> list[Any]:
  """Returns one variant for each combination of its named options.

  Numbers are away from their defaults, so that one that is not read shows;
  whole numbers are so small that a few positions reach them.
  """
  options = {}
  for name, hint in field_types(cls).items():
    default, meta = vars(cls())[name], meta_of(cls, name)
    if typing.get_origin(hint) is typing.Literal:
      options[name] = typing.get_args(hint)
    elif hint is bool:
      options[name] = (False, True)
    elif hint == bool | None:
      options[name] = (None, False, True)
    elif hint is float and default:
      low = -math.inf if meta.min is None else meta.min
      options[name] = (max(low, 0.75 * default),)
    elif hint is int:
      options[name] = (int(meta.min or 0) + 2,)
  found = []
  for values in itertools.product(*options.values()):
    try:
      found.append(cls(**dict(zip(options, values, strict=True))))
    except FieldError:
      continue  # some options go without each other only
  return found


def named(variant: Any) -> str:
  """Returns a test id: 'qkv-mlp'."""
  words = [
    name if value is True else value
    for name, value in vars(variant).items()
    if value is True or isinstance(value, str)
  ]
  return '-'.join([variant.tag, *words])


def mask_lists(causal: bool) -> list[tuple[Any, ...]]:
  """Returns each mask alone and beside causal, as far as they go together."""
  masks = [
    m for c in unions(Architecture)['mask'].values() for m in examples(c)
  ]
  alone = [] if causal else [(m,) for m in masks]
  found = [*alone, *([(Causal(),)] if causal else [])]
  for mask in masks:
    try:
      found.append(Architecture(mask=(Causal(), mask)).mask)
    except FieldError:
      continue
  return found


def output_lists() -> list[tuple[Any, ...]]:
  """Returns each output alone, and all that go together."""
  outputs = [
    o for c in unions(Architecture)['output'].values() for o in examples(c)
  ]
  together: tuple[Any, ...] = ()
  for output in outputs:
    try:
      together = Architecture(output=(output, *together)).output
    except FieldError:
      continue
  return [*((output,) for output in outputs), together]


BASE = Architecture(num_layers=2, d_model=8, num_heads=2, tie_embeddings=False)


def spelled(variant: Any) -> str:
  """Returns a name that tells examples apart, and holds no number."""
  words = [
    f'{name}={value}'
    for name, value in vars(variant).items()
    if value is None or isinstance(value, bool | str)
  ]
  return '-'.join([variant.tag, *words])


def choices(causal: bool) -> dict[str, dict[str, Any]]:
  """Returns what is mixed: by field, then by name.

  Args:
    causal: a causal mask in each.
  """
  options = {
    field: {spelled(v): v for cls in members.values() for v in examples(cls)}
    for field, members in unions(Architecture).items()
  }
  if causal:
    families = options['model'].items()
    options['model'] = {n: f for n, f in families if f.traits.writes}
  # Kernels run where others do not: test_kernels.py.
  options['backend'] = {
    name: v
    for name, v in options['backend'].items()
    if not isinstance(v, FusedKernel)
  }
  *outputs, together = output_lists()
  lists = {'mask': mask_lists(causal), 'output': outputs}
  for field, values in lists.items():
    options[field] = {'-'.join(map(spelled, value)): value for value in values}
  options['output']['together'] = together
  return options | {
    'use_bias': {'yes': True, 'also': True, 'no': False},
    'scale_embeddings': {'yes': True, 'no': False, 'none': False},
    'logit_cap': {'none': None, 'no': None, '1.5': 1.5},
    'num_kv_heads': {'none': None, '1': 1},
  }


def rounding_decides(arch: Architecture) -> bool:
  """Returns whether states that should be 0 are what rounding left.

  Without its own direction the output of a query that sees one key is 0.  With
  no skip connection that is the state, which norms enlarge and routers read, so
  that two ways to compute it need not agree.
  """
  outputs = [o for layer in arch.layers for o in layer.output]
  return isinstance(arch.residual, NoResidual) and any(
    isinstance(output, ExclusiveSelf) for output in outputs
  )


def covering(causal: bool) -> list[Architecture]:
  """Returns few architectures that hold every example of every union.

  Args:
    causal: a causal mask in each.
  """
  options = choices(causal)

  def mixed(drawn: Drawn) -> tuple[Architecture, Drawn]:
    arch, kept = BASE, {}
    for field, name in drawn.items():
      change = {field: options[field][name]}
      # A classifier has no unembedding that could be tied or not.
      if isinstance(change[field], Classifier):
        change['tie_embeddings'] = True
      try:
        other = dataclasses.replace(arch, **change)
      except FieldError:
        continue
      if rounding_decides(other):
        continue
      arch, kept[field] = other, name
    return arch, kept

  return [
    mixed(drawn)[0]
    for drawn in mixtures(options, lambda drawn: mixed(drawn)[1]).values()
  ]


def shown(out: NetworkOutput) -> tuple[Any, ...]:
  """Returns what the loops give as well, in their order."""
  return (
    out.logits_BTV,
    out.weights_LBNTS,
    out.cross_weights_LBNTS,
    out.encoder_weights_LBNTS,
  )


def described(arch: Architecture) -> str:
  """Returns a test id: what differs from the base."""
  parts = [
    ','.join(named(v) for v in (value if isinstance(value, tuple) else [value]))
    for name, value in vars(arch).items()
    if name in unions(Architecture) and name != 'init'
  ]
  return ' '.join(parts)


def dims_of(arch: Architecture) -> Dims:
  return arch.dims(SEQ_LEN, VOCABULARY, num_classes=3)


def source_of(arch: Architecture, batch: int) -> Source | None:
  """Returns what an encoder-decoder reads: texts of different lengths."""
  if not arch.model.traits.has_source:
    return None
  tokens_BS = np.random.default_rng(2).integers(0, VOCABULARY, (batch, 4))
  sizes_B1 = np.array([[4], [2], [3]])[:batch]
  return Source(tokens_BS, (np.arange(4) < sizes_B1).astype(int))


def draws(*shape: int, seed: int = 0) -> np.ndarray:
  """Returns normal numbers that float32 holds exactly, in float64."""
  rng = np.random.default_rng([seed, *shape])
  return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def drawn_params(table: Mapping[str, Param]) -> dict[str, np.ndarray]:
  """Returns numbers for each parameter, biases and gains too."""
  return {
    name: draws(*what.shape, seed=n) / 2
    for n, (name, what) in enumerate(table.items())
  }


def stacked_params(arch: Architecture) -> dict[str, np.ndarray]:
  """Returns numbers for each path of a model; layers along a first axis."""
  table = {
    path: dataclasses.replace(what, shape=(depth, *what.shape))
    if (depth := arch.depth(path))
    else what
    for path, what in arch.parameter_table(dims_of(arch)).items()
  }
  return drawn_params(table)


# Attention and nothing else: its gradients compile in a third of the time.
BARE = dataclasses.replace(
  BASE,
  num_layers=1,
  feedforward=NoFeedForward(),
  norm=NoNorm(),
  scan_layers=False,
)


def sloped(field: str, variant: Any) -> Architecture:
  """Returns an architecture with a variant, and with biases if it has any."""
  value = (variant,) if field == 'output' else variant
  arch = dataclasses.replace(BARE, **{field: value})
  if any(output.traits.keeps_first_values for output in arch.output):
    arch = dataclasses.replace(arch, num_layers=2)
  if field == 'projections':
    # What is added to all keys changes nothing with softmax.
    arch = dataclasses.replace(arch, position=Rope(), normalizer=Softmax1())
  try:
    return dataclasses.replace(arch, use_bias=True)
  except FieldError:
    return arch


TOKENS_BT = np.array(
  [[0, 1, 2, 3, 4, 5], [6, 6, 1, 0, 2, 2], [5, 3, 0, 0, 1, 4]], np.int32
)
SEGMENTS_BT = np.array([[1, 1, 2, 2, 2, 2], [1] * 6, [1, 2, 2, 0, 0, 0]])


def params_of(arch: Architecture, dtype: Any = np.float32) -> Any:
  """Returns parameters, none of them 0 or 1."""
  params = stacked_params(arch).items()
  return unflatten({path: jnp.asarray(value, dtype) for path, value in params})


def discrete(arch: Architecture) -> bool:
  """Returns whether which keys count at a near tie hangs on the last bit.

  Of two ways to compute such weights, float32 may take one key in the one and
  another in the other: they are compared in float64.
  """
  normalizer = arch.normalizer
  params = drawn_params(normalizer.params(dims_of(BASE)))
  ties_BNTS = np.broadcast_to(1e-6 * np.arange(8.0), (1, BASE.num_heads, 1, 8))
  seen_B1TS, n_B1T1 = np.ones((1, 1, 1, 8), bool), np.full((1, 1, 1, 1), 8)
  one, other = (
    normalizer.weights(params, jnp.float32(x_BNTS), seen_B1TS, n_B1T1)
    for x_BNTS in (ties_BNTS, -ties_BNTS)
  )
  return bool(np.abs(one - other).max() > 1e-2)
