"""The cost of a configuration before it runs: parameters, FLOPs and memory."""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from model.backends.base import LONG
from model.core.field import FieldError, bind, split
from model.core.parameter import Param, ParamRole
from train.config.config import Config
from train.core.trees import unflatten
from train.optim.optimizer import Optimization
from train.text.vocabulary import Vocabulary

# FLOP rate of a small model on a CPU, as a share of a large matrix product's.
EFFICIENCY = 0.25
# No machine holds more parameters: a larger number is a typing error.
MOST_PARAMETERS = 10**12


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one configuration.

  Attributes:
    parameters: number of all parameters.
    flops_per_token: of training, forward and backward.
    state_bytes: parameters, gradients and the states of --optimizer,
      --after_update and --average, in float32.
    checkpoint_bytes: the same without gradients.
    flops: of the whole trial.
  """

  parameters: int
  flops_per_token: int
  state_bytes: int
  checkpoint_bytes: int
  flops: int


@functools.lru_cache(maxsize=8192)
def cost(config: Config, vocab_size: int, num_classes: int = 0) -> Cost:
  """Returns the cost of a configuration.

  FLOPs per token: 6 for each weight in a matrix product (2 forward, 4 backward;
  Kaplan et al. 2020, section 2.1, with the unembedding counted), and 12 T N H
  for the logits and the weighted sum of each attention, where masked pairs
  count too.  A source is taken to be as long as its target.
  """
  dims = config.dims(vocab_size, num_classes)
  arch = config.architecture
  table = arch.parameter_table(dims)

  def size(path: str, spec: Param) -> int:
    return (arch.depth(path) or 1) * math.prod(spec.shape)

  total = sum(size(path, spec) for path, spec in table.items())
  none = arch.model.traits.has_classes or dims.num_outputs
  unembedded = 0 if none else dims.d_model * vocab_size
  multiplied = unembedded + sum(
    round(size(path, spec) * spec.used)
    for path, spec in table.items()
    if spec.role in (ParamRole.MATRIX, ParamRole.RESIDUAL)
    and path != 'unembedding/kernel'
  )
  heads = dims.num_heads * dims.head_dim
  attentions = sum(
    stack.num_layers * (stack.has_self_attention + stack.has_cross_attention)
    for stack in arch.stacks
  )
  mixing = 12 * attentions * dims.seq_len * heads
  per_token = 6 * multiplied + mixing
  tokens = config.steps * config.batch_size * config.seq_len
  checkpoint = 4 * total + _optimizer_bytes(
    _with_any_numbers(config.optimization), tuple(table.items())
  )
  return Cost(
    parameters=total,
    flops_per_token=per_token,
    state_bytes=checkpoint + 4 * total,
    checkpoint_bytes=checkpoint,
    flops=per_token * tokens,
  )


def _with_any_numbers(optimization: Optimization) -> Optimization:
  """Returns it with the same numbers for all rows of one program."""
  static, numbers = split(optimization)
  return bind(static, dict.fromkeys(numbers, 0.5))


@functools.lru_cache(maxsize=1024)
def _optimizer_bytes(
  optimization: Optimization, table: tuple[tuple[str, Param], ...]
) -> int:
  """Returns the bytes of the optimizer, after-update and average states."""
  by_path, steps = dict(table), jnp.asarray(1)

  def start(params: Any) -> Any:
    states = optimization.start(by_path, params)[1]
    rule = optimization.transform(by_path, steps)
    return rule.init(params), states, optimization.average.start(params)

  params = {path: spec.struct for path, spec in table}
  kept = jax.eval_shape(start, unflatten(params))
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


def cost_on(config: Config, vocabulary: Vocabulary) -> Cost:
  """Returns the cost of a configuration with this vocabulary."""
  return cost(config, vocabulary.size, len(vocabulary.labels))


def trial_bytes(config: Config, vocabulary: Vocabulary) -> int:
  """Returns about the bytes of a trial: its state and stored activations.

  Activations: about 16 d_model values per layer and token, the logits and their
  gradient, and the attention weights unless attention runs in chunks.
  """
  dims, arch = config.sizes(vocabulary), config.architecture
  tokens = config.batch_size // config.microbatches * config.seq_len
  layers = 1 if arch.remat else sum(stack.num_layers for stack in arch.stacks)
  whole = config.seq_len < LONG
  weights = 3 * layers * dims.num_heads * config.seq_len * whole
  outputs = dims.num_outputs or dims.vocab_size
  each = 16 * layers * dims.d_model + 2 * outputs + weights
  return cost_on(config, vocabulary).state_bytes + 4 * tokens * each


def check_size(config: Config, vocabulary: Vocabulary) -> None:
  """Raises a FieldError if there are more than MOST_PARAMETERS parameters."""
  count = cost_on(config, vocabulary).parameters
  if count > MOST_PARAMETERS:
    raise FieldError(
      'd_model',
      config.architecture.d_model,
      f'makes {count:,} parameters with --num_layers='
      f'{config.architecture.num_layers} and a vocabulary of '
      f'{vocabulary.size:,}, at most {MOST_PARAMETERS:,} fit any machine: make '
      'one smaller',
    )


def flops_per_second() -> float:
  """Measures the FLOP/s of a matrix product on the first device."""
  x = jnp.ones((768, 768))
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  best = math.inf
  for _ in range(5):
    start = time.perf_counter()
    product(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * 768**3 / best
