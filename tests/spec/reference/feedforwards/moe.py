"""A mixture of experts, each of them an MLP: of one token."""

import math
from typing import Any

import numpy as np

from spec.reference.arithmetic import Params, Vector, add, linear
from spec.reference.feedforwards import mlp


def loop(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Shazeer et al. 2017, section 2; gates of Mixtral or of Switch."""
  logits_E = linear(x_D, params['router'], None)
  top = max(logits_E)
  total = sum(math.exp(x - top) for x in logits_E)
  p_E = [math.exp(x - top) / total for x in logits_E]
  # Of equals the first.
  chosen = sorted(range(len(p_E)), key=lambda e: (-p_E[e], e))[: variant.top_k]
  whole = sum(p_E[e] for e in chosen) if variant.renormalize else 1.0
  out_D = np.zeros(len(x_D))
  for e in chosen:
    own = {name: x[e] for name, x in params.items() if name != 'router'}
    out_D = add(
      out_D, [p_E[e] / whole * y for y in mlp.loop(variant, own, x_D)]
    )
  return out_D
