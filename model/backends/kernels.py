"""Backends that call fused attention kernels of other libraries.

The kernels compute

  out = softmax(mask(c q . k)) v

with a number c, and a mask for the past, a window or all keys, without an array
of T x S elements.  They count positions from 0, so queries and keys must be
those of whole sequences.
"""

import abc
import dataclasses
import importlib.util
from collections.abc import Callable
from typing import ClassVar

import jax

from model.attention.composed import reference_attention
from model.attention.mask_list import distance, only_padding
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
)
from model.backends.base import BackendBase, BackendTraits, is_zero
from model.core.field import FieldError

# Masks that kernels support, by `MaskTraits.shape`.
SHAPES = ({'all'}, {'past'}, {'past', 'near'})


class FusedKernel(BackendBase, abc.ABC):
  """Base of backends that call a fused kernel for softmax(mask(c q . k)) v.

  With fewer queries than keys, as when decoding with a cache, the reference is
  used: kernels count positions from 0, and would mask the wrong keys.
  """

  traits: ClassVar[BackendTraits] = BackendTraits(is_kernel=True)

  def problem(self, parts: AttentionParts) -> FieldError | None:
    """Returns an error for a choice that it does not support, or `None`."""
    outputs = [output.traits for output in parts.output]
    outputs_differ = any(o.decays or o.mixes_heads for o in outputs)
    for flag, value, served in (
      ('score', parts.score, parts.score.traits.is_product),
      ('scale', parts.scale, parts.scale.traits.is_static),
      ('logit_cap', parts.logit_cap, parts.logit_cap is None),
      ('position', parts.position, not parts.position.traits.biases),
      ('output', parts.output, not outputs_differ),
      ('normalizer', parts.normalizer, parts.normalizer.traits.is_softmax),
      ('dropout_attention', parts.dropout, is_zero(parts.dropout)),
    ):
      if not served:
        return FieldError(
          flag,
          value,
          'is not in softmax(mask(c q . k)) v, all that '
          f'--backend={self.tag} computes',
        )
    if any(only_padding(mask) for mask in parts.mask):
      return FieldError(
        'backend',
        self,
        'cannot hide padding, as cross-attention must, and an encoder with '
        '--mask=auto',
      )
    if {mask.traits.shape for mask in parts.mask} not in SHAPES:
      return FieldError(
        'mask',
        parts.mask,
        f'must be causal, causal,window or full with --backend={self.tag}',
      )
    return None

  def attend(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
    rngs_B: jax.Array | None,
  ) -> HeadOutputs:
    """Computes attention, without weights."""
    hides_future = any(mask.traits.hides_future for mask in parts.mask)
    if hides_future and queries.at.t.size != keys.at.t.size:
      return reference_attention(parts, tables, queries, keys, rngs_B)
    return self.run(parts, tables, queries, keys)

  @abc.abstractmethod
  def run(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
  ) -> HeadOutputs:
    """Calls the kernel on whole sequences."""


@dataclasses.dataclass(frozen=True)
class Cudnn(FusedKernel, tag='cudnn'):
  """Flash attention of cuDNN, NVIDIA GPUs only (Dao et al. 2022).

  arXiv:2205.14135.  With --repeatable=false, gradients may round differently
  when a run is repeated.
  """

  traits: ClassVar[BackendTraits] = BackendTraits(
    is_kernel=True, is_fastest=True
  )

  def problem(self, parts: AttentionParts) -> FieldError | None:
    """Returns an error for a choice that it does not support, or `None`."""
    if found := super().problem(parts):
      return found
    # The limits of jax/_src/cudnn/fused_attention_stablehlo.py (jax 0.10.2).
    # `check_layout`: half precision, and one type.  `check_is_flash_attention`:
    # widths of a multiple of 8 up to 128, from Hopper on up to 256; values of
    # another width need Hopper and cuDNN 9.10.  Windows look back only
    # (`jax.nn.dot_product_attention`), as causal ones do.  Dropout is not by
    # example, and what hides documents would be a bias of T x S elements, in
    # which a query without keys gets a mean and not zeros: the base class
    # refuses both.
    query, value = parts.widths.query // parts.maps, parts.widths.value
    if parts.dtype != 'bfloat16':
      return FieldError(
        'dtype', parts.dtype, 'must be bfloat16 with --backend=cudnn'
      )
    if query != value:
      return FieldError(
        'backend',
        self,
        f'needs queries as wide as values, and they are {query} and {value}',
      )
    if query % 8 or query > 128:
      return FieldError(
        'head_dim',
        query,
        'must be a multiple of 8 up to 128 with --backend=cudnn',
      )
    return None

  def unavailable(self, platform: str) -> str | None:
    """Returns why the machine cannot run this backend, or `None` if it can."""
    if platform == 'gpu':
      return None
    return f'needs an NVIDIA GPU, and this is a {platform}'

  def run(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
  ) -> HeadOutputs:
    """Calls the kernel on whole sequences."""
    return _run_kernel(
      jax.nn.dot_product_attention, 'cudnn', parts, tables, queries, keys
    )


@dataclasses.dataclass(frozen=True)
class Tokamax(FusedKernel, tag='tokamax'):
  """The best kernel of the package tokamax for the device (Dao et al. 2022).

  arXiv:2205.14135.  If none of its kernels applies, tokamax uses XLA.
  """

  def unavailable(self, platform: str) -> str | None:
    """Returns why the machine cannot run this backend, or `None` if it can."""
    del platform
    if importlib.util.find_spec('tokamax'):
      return None
    return 'needs tokamax: pip install -r requirements-tokamax.txt'

  def run(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
  ) -> HeadOutputs:
    """Calls the kernel on whole sequences."""
    # tokamax is optional: --help and all other backends work without it.
    from absl import flags
    from tokamax import dot_product_attention  # pyright: ignore[reportMissingImports]  # optional

    if not flags.FLAGS.is_parsed():
      # Otherwise tokamax parses the command line, and rejects our flags.
      flags.FLAGS.mark_as_parsed()
    return _run_kernel(
      dot_product_attention, None, parts, tables, queries, keys
    )


def _run_kernel(
  kernel: Callable[..., jax.Array],
  implementation: str | None,
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys: Keys,
) -> HeadOutputs:
  """Calls a kernel with the interface of `jax.nn.dot_product_attention`."""
  factor = parts.scale.factor(tables['scale'], queries.q_BTNH.shape[-1], None)
  causal = any(mask.traits.shape == 'past' for mask in parts.mask)
  nearest = distance(parts.mask)
  # Number of visible keys before the query, and after it.
  reach = None if nearest is None else (nearest[0] - 1, 0)
  out_BTNH = kernel(
    queries.q_BTNH,
    keys.k_BSKH,
    keys.v_BSKH,
    scale=factor,
    is_causal=causal,
    local_window_size=reach,
    implementation=implementation,
  )
  return HeadOutputs(out_BTNH, None)
