"""Attention alone, forward and backward, by each backend that serves."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.inside.steps import best_seconds, memory_of
from model.attention.parts import Keys, Queries
from model.backends.base import BackendBase
from model.core.field import FieldError, variants
from model.core.inputs import Positions
from train.config.config import Config
from train.flags.schema import override

SECONDS = 1.0  # least time spent on one backend and length


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields what each backend takes at each length; a note if it fails."""
  platform = jax.default_backend()
  for length in given['lengths']:
    batch = max(1, given['tokens'] // length)
    for name in serving(platform):
      try:
        yield {
          'of': f'T {length:,}, batch {batch}',
          'what': name,
          **_figures(name, given, length, batch),
        }
      except FieldError:  # it does not compute plain softmax in this type
        continue
      except Exception as e:  # of one kernel: the others are still measured
        fault = f'{type(e).__name__}: {e}'.partition('\n')[0]
        yield {'note': f'T {length:,}: {name}: {fault}'}


def serving(platform: str) -> list[str]:
  """Returns the backends of a platform, without those that choose another."""
  found = []
  for name, kind in variants(BackendBase).items():
    backend = kind()
    assert isinstance(backend, BackendBase)
    if not backend.traits.chooses and backend.unavailable(platform) is None:
      found.append(name)
  return found


def _figures(
  name: str, given: Mapping[str, Any], length: int, batch: int
) -> dict[str, Any]:
  """Returns the time and memory of a backend.

  Raises:
    FieldError: it does not compute plain softmax in this type.
  """
  attend = _attention(name, given, length)
  shape = (batch, length, given['heads'], given['width'])
  arrays = [
    jax.random.normal(key, shape, given['dtype'])
    for key in jax.random.split(jax.random.key(0), 4)
  ]

  @jax.jit
  def both(q: Any, k: Any, v: Any, g: Any) -> Any:
    out, pull = jax.vjp(attend, q, k, v)
    return out, pull(g)

  begun = time.perf_counter()
  compiled = both.lower(*arrays).compile()
  compiling = time.perf_counter() - begun

  def run() -> float:
    begun = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    return time.perf_counter() - begun

  run()
  found = best_seconds(run, SECONDS)
  median = statistics.median(found)
  return {
    'best_ms': 1e3 * min(found),
    'median_ms': 1e3 * median,
    'tokens_per_second': batch * length / median,
    'peak_bytes': memory_of(compiled).total,
    'compile_seconds': compiling,
  }


def _attention(
  name: str, given: Mapping[str, Any], length: int
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
  """Returns causal softmax attention by a backend, of queries, keys, values.

  Raises:
    FieldError: the backend does not compute it in this type.
  """
  flags = {
    'backend': name,
    'num_layers': '1',
    'num_heads': str(given['heads']),
    'd_model': str(given['heads'] * given['width']),
    'seq_len': str(length),
    'dtype': given['dtype'],
    'position': 'none',
  }
  config = override(Config(), flags)
  arch, dims = config.architecture, config.dims(vocab_size=1)
  # Plain softmax of products has no parameters.
  named = arch.block_tables(dims, arch.stacks[-1])
  tables = {part: {} for part in (*named, 'position')}
  at = Positions(jnp.arange(length))

  def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array
  ) -> jax.Array:
    x_BTD = q_BTNH.reshape(*q_BTNH.shape[:2], -1)
    queries, keys = Queries(q_BTNH, x_BTD, at, {}), Keys(k_BSKH, v_BSKH, at, {})
    return arch.backend.attend(arch.parts, tables, queries, keys, None).out_BTNH

  return attend
