"""What the outputs of an example may depend on, and that they do."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from model.architecture.architecture import Architecture
from model.architecture.family import Classifier
from model.attention.mask import MaskBase, allowed
from model.core.inputs import Positions, broadcast_positions
from spec.subject import (
  CHAIN,
  EXAMPLE,
  KNOWN,
  SEGMENTS_BT,
  SOURCE_BS,
  SOURCE_SEGMENTS_BS,
  TOKENS_BT,
)
from spec.tolerance import tolerance


class Sight(NamedTuple):
  """What each output may depend on: own tokens, then those of a source.

  Attributes:
    reach_TS: it may.
    direct_TS: its last layer attends to it, and it has no other way to it.
    sums_TS: it may be left out by a difference of sums, which is not exact.
  """

  reach_TS: np.ndarray
  direct_TS: np.ndarray
  sums_TS: np.ndarray


def _seen(
  masks: Sequence[MaskBase], segments_T: np.ndarray | None
) -> np.ndarray:
  """Returns which keys each query of the example may attend to."""
  length = TOKENS_BT.shape[1] if segments_T is None else len(segments_T)
  segment, place = None, None
  if segments_T is not None:
    segment = jnp.asarray(segments_T)[None]
    if any(mask.traits.separates for mask in masks):
      firsts_T = [segments_T.tolist().index(own) for own in segments_T]
      place = jnp.arange(length)[None] - jnp.asarray(firsts_T)
  at = Positions(jnp.arange(length), segment, place)
  seen_11TS = allowed(masks, *broadcast_positions(at, at))
  return np.broadcast_to(seen_11TS[0, 0], (length, length))


def _reach(seen_TS: np.ndarray, layers: int) -> np.ndarray:
  """Returns what can be reached in that many layers."""
  steps_TS = (seen_TS | np.eye(len(seen_TS), dtype=bool)).astype(int)
  return np.linalg.matrix_power(steps_TS, layers) > 0


def sight(arch: Architecture) -> Sight:
  """Returns what the outputs of the example may depend on."""
  given = None if arch.model.traits.has_source else SEGMENTS_BT[EXAMPLE]
  stack = arch.stacks[-1]
  seen_TS = _seen(stack.mask, given) & stack.has_self_attention
  own = ~np.eye(len(seen_TS), dtype=bool)
  fades = any(output.traits.decays for output in arch.output)
  past_TS = np.tri(len(seen_TS), dtype=bool) & fades
  found = Sight(_reach(seen_TS, stack.num_layers), seen_TS & own, past_TS)
  if isinstance(arch.model, Classifier):
    if arch.model.pooling == 'cls':
      return Sight(*(x_TS[:1] for x_TS in found))
    # Its own state is a way to each token.
    real_TS = [x_TS[SEGMENTS_BT[EXAMPLE] != 0] for x_TS in found]
    reach_S, _, sums_S = (x_TS.any(0, keepdims=True) for x_TS in real_TS)
    return Sight(reach_S, np.zeros_like(reach_S), sums_S)
  if not arch.model.traits.has_source:
    return found
  real_S = SOURCE_SEGMENTS_BS[EXAMPLE] != 0
  never_TS = np.zeros((len(seen_TS), len(real_S)), bool)
  source = Sight(never_TS, never_TS, never_TS)
  if arch.encoder is not None:
    memory_SS = _reach(
      _seen(arch.encoder.mask, SOURCE_SEGMENTS_BS[EXAMPLE]),
      arch.encoder.num_layers,
    )
    reach_S = memory_SS[real_S].any(0)
    source = Sight(never_TS | reach_S, never_TS | real_S, never_TS)
  return Sight(
    *(np.concatenate(both, 1) for both in zip(found, source, strict=True))
  )


def check_influence(arch: Architecture, influence_TV: np.ndarray) -> None:
  """Asserts that an output is a function of what it may see, and of that.

  Through L layers it sees what can be reached in L steps.  The future must be
  0 exactly; a decay along the past is a difference of sums over all of it,
  which cancels to the rounding of those: bfloat16 is summed in float32.
  """
  known = TOKENS_BT[EXAMPLE]
  if arch.model.traits.has_source:
    known = np.concatenate([known, SOURCE_BS[EXAMPLE]])
  influence_TS, may = influence_TV[:, known], sight(arch)
  assert np.isfinite(influence_TV).all()
  assert not influence_TS[~may.reach_TS & ~may.sums_TS].any(), (
    'a position sees what it may not'
  )
  wide = arch.dtype == 'float32'  # and computed in float64
  rounding = (
    tolerance(jnp.float64, 24, CHAIN)
    if wide
    else tolerance(jnp.float32, 24, 16.0)
  )
  least = rounding * influence_TS.max()
  assert (influence_TS[~may.reach_TS] <= least).all(), 'it sees what is masked'
  strangers = sorted({*range(KNOWN)} - {*known})
  assert not influence_TV[:, strangers].any(), 'it sees another example'
  # Some normalisers give some keys no weight.
  for columns in np.split(np.arange(len(known)), [TOKENS_BT.shape[1]]):
    direct_TS = may.direct_TS[:, columns]
    seen = influence_TS[:, columns][direct_TS]
    assert seen.any() or not direct_TS.any(), 'it is blind'
