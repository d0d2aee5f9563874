"""What is compiled into a program: all of a trial but its traced numbers."""

import dataclasses

import numpy as np

from model.core.field import split
from model.core.parameter import Dims
from train.config.config import Config
from train.devices.parallel import AXIS, Layout
from train.devices.placement import parameter_axes
from train.tasks.base import Data


@dataclasses.dataclass(frozen=True)
class Signature:
  """The static part of a trial: trials with equal ones share a program.

  Attributes:
    static: the configuration without its traced numbers.
    dims: sizes of the axes.
    available: number of validation examples in the data.
    eval_examples: how many of them to evaluate on.
    layout: how trials lie on devices.
    is_host_fed: whether the host feeds the data, HOST_BLOCK steps at a time.
  """

  static: Config
  dims: Dims
  available: int
  eval_examples: int
  layout: Layout
  is_host_fed: bool

  @property
  def axis(self) -> str | None:
    """Returns the axis of devices that share a batch, or None if none do."""
    return AXIS if self.layout.shares > 1 else None

  @property
  def parameter_axes(self) -> dict[str, str]:
    """Returns the letters of the axes of each parameter, by path."""
    return parameter_axes(self.static.architecture, self.dims)


def signature(
  config: Config, data: Data, layout: Layout, fed: bool = False
) -> tuple[Signature, dict[str, np.ndarray]]:
  """Returns the signature of a trial, and its traced numbers.

  Numbers are int32 and float32 arrays, never weakly typed, so that no call
  compiles again.
  """
  static, values = split(config.device_config)
  assert isinstance(static, Config)
  available = config.task.evaluation_size(data.arrays, config.seq_len)
  examples = config.num_evaluated(data.arrays)
  numbers = {
    path: np.asarray(v, np.int32 if isinstance(v, int) else np.float32)
    for path, v in values.items()
  }
  dims = config.sizes(data.vocabulary)
  return Signature(static, dims, available, examples, layout, fed), numbers
