"""The cores of a machine: who runs on which, and as how many devices."""

import contextlib
import os
from collections.abc import Sequence

import jax


def cores() -> list[int]:
  """Returns the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def shares(among: int) -> list[list[int]]:
  """Returns the cores of each of several processes; none has no core."""
  own = cores()
  return [own[n::among] or [own[n % len(own)]] for n in range(among)]


def pin(own: Sequence[int]) -> None:
  """Keeps this process on these cores, where the system can do that.

  Before JAX begins: it makes a thread for each core that it may use.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, own)


def split_cpu(devices: int) -> None:
  """Makes a CPU appear as several devices, so that each may hold a trial.

  Has no effect where XLA_FLAGS sets the number, or JAX has begun already.
  """
  if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    return
  # A device that begins later cannot be split: then there are fewer lanes.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', devices)
