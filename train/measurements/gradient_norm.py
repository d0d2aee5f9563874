"""How large the gradient of each layer is."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.architecture.architecture import Architecture
from model.architecture.family import BLOCKS
from model.core.field import FieldError, field
from train.core.metric import Metric
from train.core.trees import flatten
from train.measurements.base import Measurement, MeasurementValues, Subject


@dataclasses.dataclass(frozen=True)
class GradientNorm(Measurement, tag='gradient_norm'):
  """Norm of the gradient of the mean loss, by layer of the last stack.

  The Frobenius norm over all parameters of a layer, or over those of one part;
  the number beside those of the layers is that of the last one (Xiong et al.
  2020, arXiv:2002.04745, section 3, of the second matrix of the feed-forward
  sub-layer).
  """

  figures: ClassVar[tuple[Metric, ...]] = (
    Metric(
      'gradient_norm',
      'norm of the gradient of the last layer',
      lower_is_better=True,
      at_every_evaluation=True,
    ),
  )

  of: str | None = field(
    None,
    'Part of a layer, such as attention or feedforward/down; `none` is all.',
  )

  def problem(self, arch: Architecture) -> FieldError | None:
    """Returns an error if no layer has such a part, or None."""
    dims = arch.dims(seq_len=1, vocab_size=1)
    paths = {
      path.partition('/')[2]
      for path in arch.parameter_table(dims)
      if arch.depth(path) is not None and path.startswith(BLOCKS)
    }
    if any(self._counts(path) for path in paths):
      return None
    return FieldError(
      'measure.of', self.of, f'no layer has it: they have {sorted(paths)}'
    )

  def measure(self, subject: Subject) -> MeasurementValues:
    """Returns the norm of each layer, and of the last."""
    gradients = flatten(subject.gradients())
    norms = dict[int, jax.Array]()
    for group in subject.arch.groups:
      if group.stack.name != BLOCKS:
        continue
      squares_L = jnp.zeros(len(group.numbers))
      for path, gradient_L in gradients.items():
        name, _, own = path.partition('/')
        if name == group.name and self._counts(own):
          squares_L += (gradient_L.reshape(len(group.numbers), -1) ** 2).sum(1)
      norms |= dict(zip(group.numbers, jnp.sqrt(squares_L), strict=True))
    norm_L = jnp.stack([norms[n] for n in sorted(norms)])
    name = self.figures[0].name
    return MeasurementValues({name: norm_L[-1]}, {name: norm_L})

  def _counts(self, path: str) -> bool:
    """Returns whether a parameter of a layer belongs to the part."""
    return self.of is None or f'{path}/'.startswith(f'{self.of}/')
