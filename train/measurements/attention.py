"""How sharp attention is: entropy, largest weight, slope of the softmax."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.architecture.family import BLOCKS
from model.core.side_output import ATTENTION_MAPS, WEIGHTS
from train.core.metric import Metric
from train.measurements.base import Measurement, MeasurementValues, Subject

ENTROPY = Metric(
  'attention_entropy',
  'mean entropy of the attention weights, nats',
  lower_is_better=False,
  at_every_evaluation=True,
)
LARGEST = Metric(
  'largest_weight',
  'mean of the largest attention weight of a query',
  lower_is_better=True,
  at_every_evaluation=True,
)
SLOPE = Metric(
  'softmax_slope',
  'median norm of the Jacobian of the softmax',
  lower_is_better=False,
  at_every_evaluation=True,
)


@dataclasses.dataclass(frozen=True)
class Attention(Measurement, tag='attention'):
  """Entropy and largest weight of attention, and the slope of its softmax.

  Of the weights p of a query: -sum p ln p, max p, and the Frobenius norm of
  diag(p) - p p^T, by which the gradient with respect to the logits is
  multiplied (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1: where it is
  small, nothing is learned).  Over all queries, heads and examples, of each
  layer of the last stack and of all; self-attention alone.  Weights that do not
  sum to 1 are divided by their sum, and negative ones count as 0; a query that
  sees no key is left out.
  """

  figures: ClassVar[tuple[Metric, ...]] = (ENTROPY, LARGEST, SLOPE)
  # Where one weight is nearly 1, the slope is a difference of nearly equals.
  in_float64: ClassVar[bool] = True

  def measure(self, subject: Subject) -> MeasurementValues:
    """Returns each metric over all layers, and of each layer."""
    weights_LBNTS = subject.output(ATTENTION_MAPS).layers(BLOCKS, WEIGHTS)
    assert weights_LBNTS is not None
    segments_BT = subject.batch.inputs.segments_BT
    if segments_BT is not None:
      real_BT = segments_BT > 0
      weights_LBNTS = weights_LBNTS * real_BT[:, None, :, None]
    layers = dict[str, jax.Array]()
    for metric, x_LBNT in sharpness(weights_LBNTS).items():
      rows_LR = x_LBNT.reshape(x_LBNT.shape[0], -1)
      middle = jnp.nanmedian if metric is SLOPE else jnp.nanmean
      layers[metric.name] = middle(rows_LR, axis=1)
    return MeasurementValues(
      {name: x_L.mean() for name, x_L in layers.items()}, layers
    )


def sharpness(weights_LBNTS: jax.Array) -> dict[Metric, jax.Array]:
  """Returns each metric of each query, as LBNT; NaN of one that sees no key."""
  positive_LBNTS = jnp.maximum(weights_LBNTS, 0.0)
  p_LBNTS = positive_LBNTS / positive_LBNTS.sum(-1, keepdims=True)
  logs_LBNTS = jnp.log(jnp.where(p_LBNTS > 0, p_LBNTS, 1.0))
  squares_LBNT = (p_LBNTS**2).sum(-1)
  slope_LBNT = squares_LBNT - 2 * (p_LBNTS**3).sum(-1) + squares_LBNT**2
  return {
    ENTROPY: -(p_LBNTS * logs_LBNTS).sum(-1),
    LARGEST: p_LBNTS.max(-1),
    SLOPE: jnp.sqrt(jnp.maximum(slope_LBNT, 0.0)),
  }
