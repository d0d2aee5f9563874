"""Trials without files, on tiny shapes.

One *course* is the program of a trial, run in chunks.  Courses that share a
signature share a compiled program, here as in a table.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import alone
from spec.tolerance import assert_close
from train.config.config import Config
from train.core.trees import flatten, unflatten
from train.data.tables.base import Rows
from train.data.tables.delimited import Tsv
from train.devices.parallel import SharedLayout, to_host
from train.flags.schema import override
from train.optim import objective
from train.programs import program as programs
from train.programs import signature as signatures
from train.programs import validation
from train.programs.state import TrainState, init_state
from train.programs.step import StepMetrics
from train.tasks.base import Data, Task, special_ids
from train.tasks.sentences import TableTask
from train.tasks.windows import WindowTask
from train.text.vocabulary import CharVocabulary
from train.trial import Options, Result, Trial

STEPS = 8
TINY = {
  'seq_len': '16',
  'batch_size': '8',
  'd_model': '16',
  'num_heads': '2',
  'steps': '40',
  'eval_every': '5',
  'warmup_steps': '2',
  'learning_rate': '0.01',
}
# Every traced number that the default optimiser and model read, all of them on,
# and a rule of freezing.  A clip of 0.1 is below every gradient norm here.
EVERYTHING = TINY | {
  'label_smoothing': '0.1',
  'scale': 'constant',
  'scale.value': '0.3',
  'dropout_embedding': '0.1',
  'dropout_attention': '0.2',
  'dropout_residual': '0.1',
  'feedforward.dropout': '0.3',
  'clip': '0.1',
  'freeze': '^position/|attention/out$',
}
FROZEN = {'position/table', 'blocks/attention/out'}
# Longest sum behind a loss: batch x length, each over a vocabulary.
TERMS = 8 * 16 * 24
LETTERS = ''.join(map(chr, range(97, 121)))


def config(flags: Mapping[str, str]) -> Config:
  made = override(Config(), flags)
  assert isinstance(made, Config)
  return made


@functools.cache
def data() -> Data:
  """25 validation windows of 16 tokens: not a multiple of the batch of 8."""
  draws = np.random.default_rng(0).integers(0, 24, 4100)
  # Every third token repeats the one before, so that there is much to learn.
  draws[2::3] = draws[1::3][: draws[2::3].size]
  vocabulary = CharVocabulary(LETTERS)
  ids = draws.astype(np.uint8)
  cut = 3690
  arrays = {'train': ids[:cut], 'validation': ids[cut:]}
  return Data(arrays, vocabulary, 'digest', 'draws')


@dataclasses.dataclass(frozen=True)
class Given(Tsv):
  """Rows of one to five letters, and how many there are as the label."""

  def part(self, part: str, columns: Sequence[str]) -> Rows:
    rng = np.random.default_rng(len(part))
    sizes = rng.integers(1, 6, 40 if part == 'train' else 12)
    sizes[:5] = range(1, 6)
    texts = [' '.join(rng.choice(list(LETTERS), size)) for size in sizes]
    labels = [str(size) for size in sizes]
    found = [labels if name == 'label' else texts for name in columns]
    return Rows(part, tuple(found))


@functools.cache
def data_of(task: Task) -> Data:
  """Returns data for any task, in 24 symbols beside special ones."""
  if isinstance(task, TableTask):
    return dataclasses.replace(task, data=Given(train='given')).load()
  found = data()
  if not isinstance(task, WindowTask):
    return task.load()
  vocabulary = CharVocabulary(LETTERS, specials=task.wanted)
  arrays = {**found.arrays, **special_ids(vocabulary)}
  return dataclasses.replace(found, arrays=arrays, vocabulary=vocabulary)


def cpus(count: int) -> SharedLayout:
  return SharedLayout(tuple(jax.local_devices(backend='cpu')[:count]))


class Course(NamedTuple):
  """Figures of each step, and the state after the last."""

  metrics: StepMetrics
  state: TrainState


def course(
  made: Config,
  devices: SharedLayout | None = None,
  stops: Sequence[int] = (STEPS,),
  params: Any = None,
  fresh: bool = False,
) -> Course:
  """Returns what a trial does when its chunks end at `stops`.

  Args:
    made: the trial.
    devices: what shares a batch; none is one CPU.
    stops: ascending steps at which chunks end.
    params: initial values; none draws them.
    fresh: compile anew, though another course has compiled this program.
  """
  devices = devices or cpus(1)
  sig, values = signatures.signature(made, data_of(made.task), devices)
  make = programs.get_program.__wrapped__ if fresh else programs.get_program
  chunk = make(sig).chunk
  placed = devices.place(values), devices.place(dict(data_of(made.task).arrays))
  state = devices.place(to_host(init_state(made, sig.dims, params)))
  parts, first = [], 0
  for stop in stops:
    state, metrics = chunk(state, *placed, np.int32(stop))
    parts.append([x[: stop - first] for x in to_host(metrics)])
    first = stop
  figures = map(np.concatenate, zip(*parts, strict=True))
  return Course(StepMetrics(*figures), to_host(state))


def evaluation(
  made: Config, params: Any, devices: SharedLayout | None = None
) -> objective.LossSums:
  devices = devices or cpus(1)
  sig, values = signatures.signature(made, data_of(made.task), devices)
  sums = programs.get_program(sig).evaluate(
    devices.place(params),
    devices.place(values),
    devices.place(dict(data_of(made.task).arrays)),
  )
  return to_host(sums)


def assert_same_bits(a: Any, b: Any) -> None:
  left, right = jax.tree.leaves(a), jax.tree.leaves(b)
  assert len(left) == len(right) > 0
  for x, y in zip(left, right, strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def assert_same_course(a: Course, b: Course) -> None:
  """Equal within rounding; the gradient norm by itself.

  A gradient that is 8 times too big changes neither the loss of step 0 nor,
  under clipping and Adam, much of what follows.
  """
  assert_close(a.metrics.grad_norm, b.metrics.grad_norm, TERMS)
  assert_close(a.metrics.loss, b.metrics.loss, TERMS)
  np.testing.assert_array_equal(
    a.metrics.learning_rate, b.metrics.learning_rate
  )
  assert int(a.state.step) == int(b.state.step)
  for path, param in flatten(a.state.params).items():
    # What Adam divides by may be small: relative to the largest parameter.
    assert_close(param, flatten(b.state.params)[path], TERMS, scale=1.0)


def smoothed_cross_entropy(
  logits_V: np.ndarray, target: int, label_smoothing: float
) -> float:
  """Returns -sum_v q(v) log p(v) in float64, by loops."""
  size = len(logits_V)
  total = math.fsum(math.exp(x - logits_V.max()) for x in logits_V)
  out = 0.0
  for v in range(size):
    log_p = logits_V[v] - logits_V.max() - math.log(total)
    q = (1 - label_smoothing) * (v == target) + label_smoothing / size
    out -= q * log_p
  return out


def table_of(made: Config) -> Mapping[str, Any]:
  return made.architecture.parameter_table(made.dims(24))


def moves_of(
  made: Config, params: Any, grads: Sequence[Any]
) -> list[dict[str, np.ndarray]]:
  """Returns the parameters after each update, by path."""
  transform = made.optimization.transform(table_of(made), jnp.int32(made.steps))

  @jax.jit
  def move(params: Any, state: Any, grad: Any) -> Any:
    updates, state = transform.update(grad, state, params)
    return optax.apply_updates(params, updates), state

  state, out = transform.init(params), []
  for grad in grads:
    params, state = move(params, state, grad)
    out.append(flatten(to_host(params)))
  return out


def random_params(made: Config, seed: int, size: float = 1.0) -> Any:
  """Returns random values for every parameter, as a tree."""
  draws = np.random.default_rng(seed)
  return unflatten(
    {
      path: jnp.asarray(
        size * draws.normal(size=what.struct.shape), jnp.float32
      )
      for path, what in table_of(made).items()
    }
  )


def windows_seen(
  monkeypatch: pytest.MonkeyPatch, made: Config, devices: SharedLayout
) -> tuple[list[int], float]:
  """Returns the windows that an evaluation reads, sorted, and its tokens."""
  seen: list[int] = []

  def record(ids_B: np.ndarray, weights_BT: np.ndarray) -> None:
    for number, weights_T in zip(ids_B, weights_BT, strict=True):
      assert 0 <= number < 26
      if weights_T.any():
        seen.append(int(number))

  def counted(
    made: Config, dims: object, params: object, batch: Any, arrays: object
  ) -> objective.LossSums:
    del made, dims, params, arrays
    jax.debug.callback(record, batch.ids_B, batch.weights_BT)
    zero = jnp.float32(0)
    return objective.LossSums(zero, zero, batch.weights_BT.sum(), {})

  monkeypatch.setattr(validation, 'evaluation_step', counted)
  sig, values = signatures.signature(made, data(), devices)
  sums = programs.get_program.__wrapped__(sig).evaluate(
    devices.place({}),
    devices.place(values),
    devices.place(dict(data().arrays)),
  )
  count = float(to_host(sums.count))
  jax.effects_barrier()
  return sorted(seen), count


def run_tiny(folder: pathlib.Path, flags: Mapping[str, str]) -> Result:
  trial = Trial('tiny', config(flags), folder / 'runs' / 'tiny', data())
  return alone.run(trial, Options(log_every=3), cpus(1))
