"""Base class of measurements: pure functions of a model and its input.

The parameters may be initial values, set by hand, or of a checkpoint.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax

from model import transformer
from model.architecture.architecture import Architecture
from model.core.field import FieldError, Variant
from model.core.inputs import EVERY_HEAD, HeadGates
from model.core.parameter import Dims, Params
from model.core.side_output import NOTHING, Request
from model.interfaces import NetworkOutput
from train.core.metric import Metric
from train.tasks.base import Batch

# Values by name: a number, or one for each layer along a first axis.
NamedArrays = Mapping[str, jax.Array]


class Subject(NamedTuple):
  """A model and a batch, to be measured.

  Attributes:
    arch: architecture of the model.
    dims: sizes of the axes.
    params: parameters of the model.
    batch: validation examples, without any that only fill up the batch.
    gradients: a function that computes the gradients of the mean loss over the
      targets of the batch, a tree like the parameters.
  """

  arch: Architecture
  dims: Dims
  params: Params
  batch: Batch
  gradients: Callable[[], Params]

  def output(
    self, wanted: Request = NOTHING, head_gates: HeadGates = EVERY_HEAD
  ) -> NetworkOutput:
    """Returns the output of the model, without dropout.

    Args:
      wanted: side outputs to return as well.
      head_gates: factors of the outputs of heads.
    """
    return transformer.apply(
      self.arch,
      self.dims,
      self.params,
      self.batch.inputs,
      wanted=wanted,
      head_gates=head_gates,
    )


class MeasurementValues(NamedTuple):
  """The values of a measurement.

  Attributes:
    figures: numbers by name, which `Measurement.figures` lists.
    layers: for some of these names, a number for each layer.
  """

  figures: NamedArrays
  layers: NamedArrays


class Measurement(Variant, abc.ABC):
  """An open union: each file in `train/measurements/` adds one member.

  Attributes:
    figures: the metrics that it computes, by which rows can be compared.
    in_float64: whether it is computed in float64; training is not.
  """

  figures: ClassVar[tuple[Metric, ...]] = ()
  in_float64: ClassVar[bool] = False

  def problem(self, arch: Architecture) -> FieldError | None:
    """Returns why it cannot measure an architecture, or None if it can."""
    del arch

  @abc.abstractmethod
  def measure(self, subject: Subject) -> MeasurementValues:
    """Returns the values; the function must be jittable."""


@dataclasses.dataclass(frozen=True)
class NoMeasurement(Measurement, tag='none'):
  """Only the metrics that every trial has."""

  def measure(self, subject: Subject) -> MeasurementValues:
    """Returns no values."""
    del subject
    return MeasurementValues({}, {})
