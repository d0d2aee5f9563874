"""Backends: algorithms for attention, and what each of them supports.

`problem` depends only on choices, and `unavailable` only on the name of a
platform, not on arrays.  So an unsupported command line is refused before
compilation.
"""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import jax

from model.attention.composed import reference_attention
from model.attention.normalizers.base import OnlineNormalizer
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
)
from model.backends.chunked import chunked
from model.core.field import FieldError, Variant, field, variants
from model.core.limits import COUNT

# Length from which `auto` prefers the chunked backend.  At shorter lengths the
# reference is as fast, and its memory is small compared to the rest.
LONG = 1024
# Length from which `auto` takes a kernel: the shortest at which `tests/gpu.sh`
# compares kernels with the reference.
KERNEL_LENGTH = 256
ASKED = 'asked for'  # why a backend is used that a flag names


class BackendTraits(NamedTuple):
  """Properties of a backend that the rules read.

  Attributes:
    is_portable: it runs on every platform, and is bitwise reproducible.
    is_kernel: it is a kernel of another library.
    is_fastest: where it serves, `auto` takes it; else only if asked for.
    chooses: it selects another backend, depending on the computation.
  """

  is_portable: bool = False
  is_kernel: bool = False
  is_fastest: bool = False
  chooses: bool = False


class Resolved(NamedTuple):
  """A backend that computes, and why it was selected, in words."""

  backend: 'BackendBase'
  why: str


class BackendBase(Variant, abc.ABC):
  """Base of all backends."""

  traits: ClassVar[BackendTraits] = BackendTraits()

  def problem(self, parts: AttentionParts) -> FieldError | None:
    """Returns an error for a choice that it does not support, or `None`."""
    del parts
    return None

  def unavailable(self, platform: str) -> str | None:
    """Returns why the machine cannot run this backend, or `None` if it can.

    Args:
      platform: platform of the devices, as JAX names it.
    """
    del platform
    return None

  def resolved(
    self, parts: AttentionParts, length: int, platform: str
  ) -> 'Resolved':
    """Returns the backend to use, and why.

    Args:
      parts: the choices.
      length: number of keys.
      platform: of the devices, as `kernel_platform` names it.
    """
    del parts, length, platform
    return Resolved(self, ASKED)

  @abc.abstractmethod
  def attend(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
    rngs_B: jax.Array | None,
  ) -> HeadOutputs:
    """Computes attention, and its weights if the backend has them.

    Args:
      parts: the choices.
      tables: their parameters.
      queries: all queries.
      keys: all keys.
      rngs_B: one PRNG key per example, for dropout; `None` disables it.
    """


@dataclasses.dataclass(frozen=True)
class AutoBackend(BackendBase, tag='auto'):
  """The fastest that serves: cudnn, else chunked, else reference (ours).

  cudnn on NVIDIA GPUs from 256 positions on, chunked from 1,024 positions on.
  On a CPU it takes no kernel.
  """

  traits: ClassVar[BackendTraits] = BackendTraits(chooses=True)

  def resolved(
    self, parts: AttentionParts, length: int, platform: str
  ) -> Resolved:
    """Returns the fastest backend that serves, and why."""
    if length >= KERNEL_LENGTH:
      for kernel in kernels(parts, platform):
        if kernel.traits.is_fastest:
          return Resolved(kernel, 'a fused kernel serves')
    if length < LONG:
      return Resolved(Reference(), f'fewer than {LONG:,} positions')
    if Chunked().problem(parts):
      return Resolved(Reference(), 'nothing else serves')
    return Resolved(Chunked(), f'at least {LONG:,} positions')

  def attend(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
    rngs_B: jax.Array | None,
  ) -> HeadOutputs:
    """Computes attention by the selected backend."""
    best = self.resolved(parts, keys.at.t.size, kernel_platform())
    return best.backend.attend(parts, tables, queries, keys, rngs_B)


@dataclasses.dataclass(frozen=True)
class Reference(BackendBase, tag='reference'):
  """All logits at once: any choice, O(T S) memory (Vaswani et al. 2017)."""

  traits: ClassVar[BackendTraits] = BackendTraits(is_portable=True)

  def attend(
    self,
    parts: AttentionParts,
    tables: ParamTables,
    queries: Queries,
    keys: Keys,
    rngs_B: jax.Array | None,
  ) -> HeadOutputs:
    """Computes attention; no other backend returns weights."""
    return reference_attention(parts, tables, queries, keys, rngs_B)


@dataclasses.dataclass(frozen=True)
class Chunked(BackendBase, tag='chunked'):
  """Chunks of queries and keys, O(T + S) memory (Rabe & Staats 2021).

  Supports every score, scale, cap, mask and bias, and normalisers with an
  online form (`model/attention/normalizers/base.py`).
  """

  traits: ClassVar[BackendTraits] = BackendTraits(is_portable=True)

  chunk: int = field(256, 'Queries, and keys, at a time.', min=1, max=COUNT)

  def problem(self, parts: AttentionParts) -> FieldError | None:
    """Returns an error for a choice that it does not support, or `None`."""
    if not isinstance(parts.normalizer, OnlineNormalizer):
      return FieldError(
        'normalizer',
        parts.normalizer,
        'needs all logits of a query at once, which --backend=chunked never '
        'has',
      )
    if any(output.traits.mixes_heads for output in parts.output):
      return FieldError(
        'output',
        parts.output,
        'needs the weights of all heads, which --backend=chunked never has',
      )
    if not is_zero(parts.dropout):
      return FieldError(
        'dropout_attention',
        parts.dropout,
        'needs all weights at once, which --backend=chunked never has',
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
    del rngs_B
    return chunked(parts, tables, queries, keys, self.chunk)


def kernel_platform(device: Any | None = None) -> str:
  """Returns the platform of a device, as far as kernels can count on it.

  That of GPUs that are not NVIDIA's, or too old for flash attention (compute
  capability below 8.0), gets a name of its own, which no kernel knows.

  Args:
    device: of JAX; by default the first of those that it prefers.
  """
  own: Any = jax.devices()[0] if device is None else device
  if own.platform != 'gpu':
    return own.platform
  if 'cuda' not in own.client.platform_version.lower():
    return 'gpu that is not by NVIDIA'
  capability = tuple(map(int, own.compute_capability.split('.')))
  return 'gpu' if capability >= (8, 0) else 'gpu before Ampere'


def kernels(parts: AttentionParts, platform: str) -> Iterator[BackendBase]:
  """Yields the kernels that support these choices on a platform."""
  for backend in _backends():
    there = backend.traits.is_kernel and backend.unavailable(platform) is None
    if there and backend.problem(parts) is None:
      yield backend


def problem(backend: BackendBase, parts: AttentionParts) -> FieldError | None:
  """Returns an error with other backends to try, or `None` if supported."""
  if (found := backend.problem(parts)) is None:
    return None
  serving = [
    f'--backend={other.tag}'
    for other in _backends()
    if other.traits.is_portable and other.problem(parts) is None
  ]
  return FieldError(
    found.path, found.value, f'{found.rule}: try {" or ".join(serving)}'
  )


def _backends() -> Iterator[BackendBase]:
  """Yields every backend with its default fields."""
  for cls in variants(BackendBase).values():
    backend = cls()
    assert isinstance(backend, BackendBase)
    yield backend


def is_zero(rate: float) -> bool:
  """Returns whether a rate is a static 0, and not a traced number."""
  return isinstance(rate, float) and rate == 0.0
