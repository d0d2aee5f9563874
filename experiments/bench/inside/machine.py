"""The machine: devices, versions, and the rate of a large matrix product."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.record.environment import describe_environment
from train.devices.cores import cores

SIZES = {'cpu': (1024, 2048), 'other': (4096, 8192)}
QUICK_SIZES = (256,)
SECONDS = 1.0  # least time spent on a size
PRODUCTS = 8  # in one call, so that starting it costs nothing


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields what the machine is, and its best FLOP/s by type."""
  devices = jax.devices()
  platform = devices[0].platform
  sizes = QUICK_SIZES if given['quick'] else SIZES.get(platform, SIZES['other'])
  seconds = 0.0 if given['quick'] else SECONDS
  # Few CPUs have products of bfloat16; float32 is what is measured there.
  kinds = ['float32'] if platform == 'cpu' else ['float32', 'bfloat16']
  rates = {
    kind: max(flops_per_second(size, kind, seconds) for size in sizes)
    for kind in kinds
  }
  if platform == 'cpu':
    rates['bfloat16'] = rates['float32']
  yield {
    'platform': platform,
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'cores': len(cores()),
    'matrix_flops_per_second': rates,
    'environment': describe_environment(devices),
  }


def flops_per_second(size: int, dtype: str, seconds: float) -> float:
  """Returns the FLOP/s of square products, the best of several calls."""
  x_DD = jnp.full((size, size), 1 / size, dtype)

  @jax.jit
  def products(x_DD: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, PRODUCTS, lambda _, y_DD: y_DD @ x_DD, x_DD)

  products(x_DD).block_until_ready()
  best, begun, count = math.inf, time.perf_counter(), 0
  while count < 3 or time.perf_counter() - begun < seconds:
    start = time.perf_counter()
    products(x_DD).block_until_ready()
    best = min(best, time.perf_counter() - start)
    count += 1
  return 2 * size**3 * PRODUCTS / best
