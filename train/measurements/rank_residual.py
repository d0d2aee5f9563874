"""How far the token vectors of the residual stream are from being equal."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.architecture.family import BLOCKS
from model.core.side_output import BLOCK_INPUT, RESIDUAL
from train.core.metric import Metric
from train.measurements.base import Measurement, MeasurementValues, Subject


@dataclasses.dataclass(frozen=True)
class RankResidual(Measurement, tag='rank_residual'):
  """|res(X)| / |X| of the residual stream X (Dong et al. 2021).

  arXiv:2103.03404: res(X) = X - 1 x^T and |A| = sqrt(|A|_1 |A|_inf), where
  |A|_1 is the largest sum of absolute values in a column and |A|_inf that in a
  row.  Here x is the mean of the rows, which is best in the Frobenius norm.  At
  0 all tokens have the same vector.  The mean is over examples.  Layer 0 is the
  input of the first block of the last stack; layer l is the stream after l
  blocks, before the final norm.  Computed in float64: without skip connections,
  the precision of float32 is used up at the fourth layer.
  """

  figures: ClassVar[tuple[Metric, ...]] = (
    Metric(
      'rank_residual',
      'distance of the last residual from one with equal rows, over its norm',
      lower_is_better=False,
      at_every_evaluation=True,
    ),
  )
  in_float64: ClassVar[bool] = True

  def measure(self, subject: Subject) -> MeasurementValues:
    """Returns the ratio after the last block, and at each layer."""
    out = subject.output(frozenset({BLOCK_INPUT, RESIDUAL}))
    before_LBTD = out.layers(BLOCKS, BLOCK_INPUT)
    after_LBTD = out.layers(BLOCKS, RESIDUAL)
    assert before_LBTD is not None
    assert after_LBTD is not None
    x_LBTD = jnp.concatenate([before_LBTD[:1], after_LBTD])
    segments_BT = subject.batch.inputs.segments_BT
    real_BT = jnp.ones(x_LBTD.shape[1:3], bool)
    if segments_BT is not None:
      real_BT = segments_BT > 0
    ratio_L = ratios_LB(x_LBTD, real_BT).mean(1)
    name = self.figures[0].name
    return MeasurementValues({name: ratio_L[-1]}, {name: ratio_L})


def ratios_LB(x_LBTD: jax.Array, real_BT: jax.Array) -> jax.Array:
  """Returns |res(X)| / |X| of each X, or 0 if X is 0.

  Args:
    x_LBTD: the matrices, with a row for each token.
    real_BT: False at padding, which is left out.
  """
  x_LBTD = jnp.where(real_BT[..., None], x_LBTD, 0.0)
  count_B11 = real_BT.sum(1)[:, None, None]
  mean_LB1D = x_LBTD.sum(2, keepdims=True) / count_B11
  apart_LBTD = jnp.where(real_BT[..., None], x_LBTD - mean_LB1D, 0.0)
  norm_LB = _norm_LB(x_LBTD)
  return _norm_LB(apart_LBTD) / jnp.where(norm_LB > 0, norm_LB, 1.0)


def _norm_LB(x_LBTD: jax.Array) -> jax.Array:
  """Returns sqrt(|X|_1 |X|_inf)."""
  size_LBTD = jnp.abs(x_LBTD)
  columns_LB, rows_LB = size_LBTD.sum(2).max(2), size_LBTD.sum(3).max(2)
  return jnp.sqrt(columns_LB * rows_LB)
