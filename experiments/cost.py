"""What a row costs, before it runs: parameters, FLOPs, memory, disk."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp

from model.field import FieldError
from model.parameter import Kind, Param
from train.average import NoAverage
from train.config import Config
from train.vocabulary import Vocabulary

# Share of a large matrix product's rate that small models reach on a CPU.
EFFICIENCY = 0.25
# More parameters than any machine holds: a slip of the hand.
MOST_PARAMETERS = 10**12


@dataclasses.dataclass(frozen=True)
class Cost:
  """Figures of one configuration.

  Attributes:
    parameters: all of them.
    flops_per_token: of training, forward and backward.
    state_bytes: parameters, gradients, two moments and what --average keeps,
      in float32.
    checkpoint_bytes: of these, what a checkpoint holds.
    flops: of the whole trial.
  """

  parameters: int
  flops_per_token: int
  state_bytes: int
  checkpoint_bytes: int
  flops: int


def cost(config: Config, vocab_size: int, num_classes: int = 0) -> Cost:
  """Returns what a configuration costs.

  FLOPs: 6 a token for each weight of a matrix product (2 forward, 4 backward;
  Kaplan et al. 2020, section 2.1, with the unembedding counted) and 12 T N H
  for logits and mixing of each attention, where the mask saves nothing.  A
  source counts as long as its target.
  """
  dims = config.dims(vocab_size, num_classes)
  arch = config.architecture
  table = arch.parameter_table(dims)

  def size(path: str, what: Param) -> int:
    return (arch.depth(path) or 1) * math.prod(what.shape)

  total = sum(size(path, what) for path, what in table.items())
  unembedded = 0 if arch.model.has_classes else dims.d_model * vocab_size
  multiplied = unembedded + sum(
    size(path, what)
    for path, what in table.items()
    if what.init in (Kind.MATRIX, Kind.RESIDUAL)
    and path != 'unembedding/kernel'
  )
  heads = dims.num_heads * dims.head_dim
  attentions = sum(
    stack.num_layers * (stack.attends_itself + stack.attends_memory)
    for stack in arch.stacks
  )
  mixing = 12 * attentions * dims.seq_len * heads
  per_token = 6 * multiplied + mixing
  tokens = config.steps * config.batch_size * config.seq_len
  average = not isinstance(config.optimization.average, NoAverage)
  checkpoint = (12 + 4 * average) * total
  return Cost(
    parameters=total,
    flops_per_token=per_token,
    state_bytes=checkpoint + 4 * total,
    checkpoint_bytes=checkpoint,
    flops=per_token * tokens,
  )


def cost_on(config: Config, vocabulary: Vocabulary) -> Cost:
  """Returns what a configuration costs with these symbols and classes."""
  return cost(config, vocabulary.size, len(vocabulary.labels))


def check_size(config: Config, vocabulary: Vocabulary) -> None:
  """Raises a FieldError for more parameters than any machine holds."""
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
  """Returns the rate of a matrix product on the first device, measured."""
  x = jnp.ones((768, 768))
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  best = math.inf
  for _ in range(5):
    start = time.perf_counter()
    product(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * 768**3 / best
