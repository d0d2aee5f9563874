"""Backends: how attention is computed, and what each can compute.

This is the one table of what goes with what.  `problem` reads choices, never
arrays, and `absent` the name of a platform, so that a command line is refused
before anything is compiled.
"""

import abc
import dataclasses
import importlib.util
from collections.abc import Iterator

import jax

from model.attention import Attended, Keys, Parts, Queries, Tables, reference
from model.chunked import chunked
from model.field import FieldError, Variant, field
from model.kernels import cudnn, tokamax
from model.limits import COUNT
from model.mask import Causal, Full, Mask, Padding, Window
from model.normalizer import Softmax
from model.online import Online
from model.scale import Inverse, NoScale, Rsqrt
from model.score import Dot

# Length from which `auto` takes the chunked backend where it can: below, all
# logits at once are as fast and their memory is small beside the rest.
LONG = 1024


@dataclasses.dataclass(frozen=True)
class Reference(Variant, tag='reference'):
  """All logits at once: any choice, O(T S) memory (Vaswani et al. 2017)."""

  def problem(self, parts: Parts) -> FieldError | None:
    """Returns the flag that this backend cannot serve, and why."""
    del parts
    return None

  def absent(self, platform: str) -> str | None:
    """Returns what a machine lacks for this backend, if it lacks anything.

    Args:
      platform: that of its devices, as JAX names it.
    """
    del platform
    return None

  def attend(
    self,
    parts: Parts,
    tables: Tables,
    queries: Queries,
    keys: Keys,
    keys_B: jax.Array | None,
  ) -> Attended:
    """Returns attention; the only backend that returns weights."""
    return reference(parts, tables, queries, keys, keys_B)


@dataclasses.dataclass(frozen=True)
class Chunked(Reference, tag='chunked'):
  """Chunks of queries and keys, O(T + S) memory (Rabe & Staats 2021).

  Serves every score, scale, cap, mask and bias, and normalisers with an online
  form (`model/online.py`).
  """

  chunk: int = field(256, 'Queries, and keys, at a time.', min=1, max=COUNT)

  def problem(self, parts: Parts) -> FieldError | None:
    """Returns the flag that this backend cannot serve, and why."""
    if not isinstance(parts.normalizer, Online):
      return FieldError(
        'normalizer',
        parts.normalizer,
        'needs all logits of a query at once, which --backend=chunked never '
        'has',
      )
    if any(output.mixes_heads for output in parts.output):
      return FieldError(
        'output',
        parts.output,
        'needs the weights of all heads, which --backend=chunked never has',
      )
    if not _is_zero(parts.dropout):
      return FieldError(
        'dropout_attention',
        parts.dropout,
        'needs all weights at once, which --backend=chunked never has',
      )
    return None

  def attend(
    self,
    parts: Parts,
    tables: Tables,
    queries: Queries,
    keys: Keys,
    keys_B: jax.Array | None,
  ) -> Attended:
    """Returns attention, without weights."""
    del keys_B
    return chunked(parts, tables, queries, keys, self.chunk)


class Fused(Reference, abc.ABC):
  """Base of what `model/kernels.py` computes: softmax(mask(c q . k)) v.

  A few queries against longer keys, as from a cache, take all logits at once:
  kernels, which count positions from 0, would hide the wrong ones.
  """

  def problem(self, parts: Parts) -> FieldError | None:
    """Returns the flag that this backend cannot serve, and why."""
    outputs_differ = any(o.fades or o.mixes_heads for o in parts.output)
    for flag, value, served in (
      ('score', parts.score, type(parts.score) is Dot),
      ('scale', parts.scale, type(parts.scale) in (Rsqrt, NoScale, Inverse)),
      ('logit_cap', parts.logit_cap, parts.logit_cap is None),
      ('position', parts.position, not parts.position.biases),
      ('output', parts.output, not outputs_differ),
      ('normalizer', parts.normalizer, type(parts.normalizer) is Softmax),
      ('dropout_attention', parts.dropout, _is_zero(parts.dropout)),
    ):
      if not served:
        return FieldError(
          flag,
          value,
          'is not in softmax(mask(c q . k)) v, all that '
          f'--backend={self.tag} computes',
        )
    if any(isinstance(mask, Padding) for mask in parts.mask):
      return FieldError(
        'backend',
        self,
        'cannot hide padding, as cross-attention must, and an encoder with '
        '--mask=auto',
      )
    if not _reaches_back(parts.mask):
      return FieldError(
        'mask',
        parts.mask,
        f'must be causal, causal,window or full with --backend={self.tag}',
      )
    return None

  def attend(
    self,
    parts: Parts,
    tables: Tables,
    queries: Queries,
    keys: Keys,
    keys_B: jax.Array | None,
  ) -> Attended:
    """Returns attention, without weights."""
    hides_future = any(mask.hides_future for mask in parts.mask)
    if hides_future and queries.t_T.size != keys.s_S.size:
      return reference(parts, tables, queries, keys, keys_B)
    return self.run(parts, tables, queries, keys)

  @abc.abstractmethod
  def run(
    self, parts: Parts, tables: Tables, queries: Queries, keys: Keys
  ) -> Attended:
    """Returns attention of whole sequences, by the kernel."""


@dataclasses.dataclass(frozen=True)
class Cudnn(Fused, tag='cudnn'):
  """Flash attention of cuDNN, NVIDIA GPUs only (Dao et al. 2022).

  arXiv:2205.14135.  Gradients may round otherwise when a run is repeated,
  unless XLA_FLAGS has --xla_gpu_deterministic_ops=true.
  """

  def problem(self, parts: Parts) -> FieldError | None:
    """Returns the flag that this backend cannot serve, and why."""
    if found := super().problem(parts):
      return found
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

  def absent(self, platform: str) -> str | None:
    """Returns what a machine lacks for this backend, if it lacks anything."""
    if platform == 'gpu':
      return None
    return f'needs an NVIDIA GPU, and this is a {platform}'

  def run(
    self, parts: Parts, tables: Tables, queries: Queries, keys: Keys
  ) -> Attended:
    """Returns attention of whole sequences, by the kernel."""
    return cudnn(parts, tables, queries, keys)


@dataclasses.dataclass(frozen=True)
class Tokamax(Fused, tag='tokamax'):
  """The best kernel of the package tokamax for the device (Dao et al. 2022).

  arXiv:2205.14135; where none of its kernels serves, its form in XLA.
  """

  def absent(self, platform: str) -> str | None:
    """Returns what a machine lacks for this backend, if it lacks anything."""
    del platform
    if importlib.util.find_spec('tokamax'):
      return None
    return 'needs tokamax: pip install -r requirements-tokamax.txt'

  def run(
    self, parts: Parts, tables: Tables, queries: Queries, keys: Keys
  ) -> Attended:
    """Returns attention of whole sequences, by the kernel."""
    return tokamax(parts, tables, queries, keys)


@dataclasses.dataclass(frozen=True)
class Auto(Reference, tag='auto'):
  """chunked from 1,024 positions on where it serves, else reference (ours).

  Not the kernels: whoever asks for none gets the same bits in every run.
  """

  def attend(
    self,
    parts: Parts,
    tables: Tables,
    queries: Queries,
    keys: Keys,
    keys_B: jax.Array | None,
  ) -> Attended:
    """Returns attention by the backend that is chosen."""
    best = choose(parts, keys.s_S.size)
    return best.attend(parts, tables, queries, keys, keys_B)


Backend = Auto | Reference | Chunked | Cudnn | Tokamax

# What `auto` takes, for it runs anywhere and repeats every bit; and the rest.
PORTABLE: tuple[Reference, ...] = (Reference(), Chunked())
KERNELS: tuple[Reference, ...] = (Cudnn(), Tokamax())


def choose(parts: Parts, length: int) -> Reference:
  """Returns the backend that `auto` takes for this many keys."""
  fast = Chunked()
  return fast if length >= LONG and not fast.problem(parts) else Reference()


def chosen(backend: Backend, parts: Parts, length: int) -> Reference:
  """Returns the backend that computes attention of whole sequences."""
  return choose(parts, length) if isinstance(backend, Auto) else backend


def also(parts: Parts, platform: str) -> Iterator[Reference]:
  """Yields the kernels that would serve on a platform, if they were asked."""
  for kernel in KERNELS:
    if kernel.problem(parts) is None and kernel.absent(platform) is None:
      yield kernel


def problem(backend: Backend, parts: Parts) -> FieldError | None:
  """Returns why a backend cannot serve these choices, and what can."""
  if (found := backend.problem(parts)) is None:
    return None
  serving = [
    f'--backend={other.tag}'
    for other in PORTABLE
    if other.problem(parts) is None
  ]
  return FieldError(
    found.path, found.value, f'{found.rule}: try {" or ".join(serving)}'
  )


def _is_zero(rate: float) -> bool:
  """Returns whether a rate is 0, and not a number the program takes."""
  return isinstance(rate, float) and rate == 0.0


def _reaches_back(masks: tuple[Mask, ...]) -> bool:
  """Returns whether keys are the past, a window of it, or all there are."""
  return {type(mask) for mask in masks} in ({Full}, {Causal}, {Causal, Window})
