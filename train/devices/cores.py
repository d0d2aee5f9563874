"""CPU cores: dividing them among processes and into JAX devices."""

import contextlib
import os
from collections.abc import Sequence

import jax


def cores() -> list[int]:
  """Returns the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def split_cores(among: int) -> list[list[int]]:
  """Returns the cores of each of several processes, at least one each."""
  available = cores()
  return [
    available[n::among] or [available[n % len(available)]] for n in range(among)
  ]


def pin(own: Sequence[int]) -> None:
  """Pins this process to some cores, if the system supports that.

  To be called before JAX starts, which makes a thread for each core it may use.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, own)


def split_cpu(devices: int) -> None:
  """Makes the CPU appear as several devices, so that each may hold a trial.

  Has no effect if XLA_FLAGS sets the number, or JAX has started already.
  """
  if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    return
  # JAX refuses after it has started: then there are fewer lanes.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', devices)
