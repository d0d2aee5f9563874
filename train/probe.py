"""The metrics of --measure, computed apart from the training program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.core.field import bind, split
from model.core.parameter import Dims, Params
from train.config.config import Config
from train.core.metric import at_layer
from train.evaluation import finite_or_none
from train.host_feed import validation_rows
from train.measurements.base import Measurement, MeasurementValues, Subject
from train.programs.validation import mean_gradients
from train.tasks.base import Arrays, Batch, Data, Task, spaced_examples
from train.trial import MetricValues


class Probe:
  """Computes the measurements of one trial on fixed validation examples.

  Trials are measured one at a time on the first device, so that the metrics do
  not depend on the layout.

  Args:
    config: of the trial.
    data: of the trial.
    is_host_fed: whether the host feeds the data.
  """

  def __init__(self, config: Config, data: Data, is_host_fed: bool):
    self._config, self._data, self._fed = config, data, is_host_fed

  def figures(self, params: Params) -> MetricValues:
    """Returns metrics by name; those of a layer as `rank_residual@3`.

    Empty without --measure.

    Args:
      params: the parameters, on the host.
    """
    found: MetricValues = {}
    for measurement in self._config.measurements:
      measured = self._measured(measurement, params)
      for name, x in measured.figures.items():
        found[name] = finite_or_none(x)
      for name, x_L in measured.layers.items():
        for layer, x in enumerate(x_L):
          found[at_layer(name, layer)] = finite_or_none(x)
    return found

  @functools.cached_property
  def _batch(self) -> Batch:
    """Returns the validation examples that are measured on."""
    config, arrays = self._config, self._data.arrays
    available = config.task.evaluation_size(arrays, config.seq_len)
    wanted = min(available, config.measure_examples)
    ids_B = spaced_examples(available, wanted, 1)
    inputs: Arrays = dict(arrays)
    if self._fed:
      inputs = validation_rows(config, self._data, ids_B)
    read = _reader(config.task, config.seq_len)
    return jax.tree.map(np.asarray, read(inputs, ids_B))

  def _measured(
    self, measurement: Measurement, params: Params
  ) -> MeasurementValues:
    """Returns the values of a measurement, on the host."""
    static, values = split(self._config.device_config)
    assert isinstance(static, Config)
    run = _program(static, self._config.sizes(self._data.vocabulary))
    # Read before x64 is enabled, under which random numbers differ.
    batch = self._batch
    dtype = np.float64 if measurement.in_float64 else np.float32
    numbers = {
      path: np.asarray(v, np.int32 if isinstance(v, int) else dtype)
      for path, v in values.items()
    }

    def widen(tree: Any) -> Any:
      return jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float32 else x,
        jax.tree.map(np.asarray, tree),
      )

    with jax.enable_x64(measurement.in_float64):
      found = run(measurement, numbers, widen(params), widen(batch))
      return jax.tree.map(np.asarray, found)


@functools.lru_cache(maxsize=64)
def _reader(task: Task, seq_len: int) -> Callable[[Arrays, np.ndarray], Batch]:
  """Returns the compiled function (arrays, ids) -> validation batch."""
  return jax.jit(
    lambda arrays, ids_B: task.evaluation_batch(arrays, ids_B, seq_len)
  )


@functools.lru_cache(maxsize=64)
def _program(static: Config, dims: Dims) -> Callable[..., MeasurementValues]:
  """Returns a compiled function of (measurement, numbers, params, batch)."""

  def run(
    measurement: Measurement, numbers: Any, params: Params, batch: Batch
  ) -> MeasurementValues:
    config = bind(static, numbers)
    gradients = functools.partial(mean_gradients, config, dims, params, batch)
    subject = Subject(config.architecture, dims, params, batch, gradients)
    return measurement.measure(subject)

  return jax.jit(run, static_argnums=0)
