"""Side outputs: arrays that a layer returns beside its output.

A sub-layer returns `(y_BTD, aux)`.  Any module can add to `aux`: it declares a
`SideOutput` constant beside the code that computes the array, and a reader (the
objective, a report, a probe) looks it up by that constant.
"""

import dataclasses
from collections.abc import Mapping

import jax


@dataclasses.dataclass(frozen=True, order=True)
class SideOutput:
  """Name and axes of an array that a layer returns beside its output.

  Attributes:
    name: unique among side outputs.
    axes: axes in one layer; the first is B, so that examples can be summed.
    on_request: whether it is returned only if requested.  Others are always
      returned, and summed over examples for the update and the evaluation.
  """

  name: str
  axes: str
  on_request: bool = False


# Side outputs of one layer, or of a stack of layers with a first axis L.
Aux = Mapping[SideOutput, jax.Array]

# Side outputs to return, of those that are returned only on request.
Request = frozenset[SideOutput]

NOTHING: Request = frozenset()

WEIGHTS = SideOutput('attention_weights', 'BNTS', on_request=True)
CROSS_WEIGHTS = SideOutput('cross_attention_weights', 'BNTS', on_request=True)
# The residual stream before a block, and after it.
BLOCK_INPUT = SideOutput('block_input', 'BTD', on_request=True)
RESIDUAL = SideOutput('residual', 'BTD', on_request=True)

ATTENTION_MAPS: Request = frozenset({WEIGHTS, CROSS_WEIGHTS})


def filter_requested(aux: Aux, wanted: Request) -> Aux:
  """Returns the side outputs that are in `wanted` or are always returned."""
  return {
    key: x for key, x in aux.items() if not key.on_request or key in wanted
  }


def totals(
  aux: Mapping[str, Aux], counted_B: jax.Array | None = None
) -> dict[str, dict[str, jax.Array]]:
  """Sums the side outputs that are always returned over the examples.

  Args:
    aux: side outputs by stack, with axes L, B and their own.
    counted_B: which examples count; `None` counts all.

  Returns:
    The sums by stack and name.
  """

  def total(x_LB: jax.Array) -> jax.Array:
    if counted_B is not None:
      shape = (1, -1, *[1] * (x_LB.ndim - 2))
      x_LB = x_LB * counted_B.reshape(shape)
    return x_LB.sum(1)

  return {
    stack: {
      key.name: total(x_LB) for key, x_LB in own.items() if not key.on_request
    }
    for stack, own in aux.items()
  }
