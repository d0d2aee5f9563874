"""Backends: how attention is computed, and what each can compute.

This is the one table of what goes with what.  `problem` reads choices, never
arrays, so that a command line is refused before anything is compiled.
"""

import dataclasses
from collections.abc import Mapping

import jax

from model.attention import Attended, Keys, Parts, Queries, Tables, reference
from model.chunked import chunked
from model.field import FieldError, Variant, field
from model.online import Online

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

  chunk: int = field(256, 'Queries, and keys, at a time.', min=1)

  def problem(self, parts: Parts) -> FieldError | None:
    """Returns the flag that this backend cannot serve, and why."""
    if not isinstance(parts.normalizer, Online):
      return FieldError(
        'normalizer', parts.normalizer, 'needs all logits of a query at once'
      )
    if any(output.mixes_heads for output in parts.output):
      return FieldError(
        'output', parts.output, 'needs the weights of all heads'
      )
    if not (isinstance(parts.dropout, float) and parts.dropout == 0.0):
      return FieldError(
        'dropout_attention', parts.dropout, 'needs all weights at once'
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


@dataclasses.dataclass(frozen=True)
class Auto(Reference, tag='auto'):
  """chunked from 1,024 positions on where it serves, else reference (ours)."""

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


Backend = Auto | Reference | Chunked


def choose(parts: Parts, length: int) -> Reference:
  """Returns the backend that `auto` takes for this many keys."""
  fast = Chunked()
  return fast if length >= LONG and not fast.problem(parts) else Reference()


def problem(backend: Backend, parts: Parts) -> FieldError | None:
  """Returns why a backend cannot serve these choices, and what can."""
  if (found := backend.problem(parts)) is None:
    return None
  serving = [
    f'--backend={tag}'
    for tag, other in OTHERS.items()
    if other.problem(parts) is None
  ]
  return FieldError(
    found.path,
    found.value,
    f'{found.rule}, which --backend={backend.tag} never has: try '
    f'{" or ".join(serving)}',
  )


OTHERS: Mapping[str, Reference] = {b.tag: b for b in (Reference(), Chunked())}
