"""Whether a GPU gives the same bits in each run of a program.

By default XLA picks the fastest kernels by timing them anew in each process,
and some of them add in an order that changes from run to run.
"""

import os
import pathlib
from typing import Any

import jax

# No such kernels (of cuDNN's attention and scatters either), and no timing:
# https://github.com/openxla/xla/pull/12520 and pull/14125.
_FLAG = 'xla_gpu_deterministic_ops'


def has_nvidia_gpu() -> bool:
  """Returns whether the system has an NVIDIA GPU, without asking JAX."""
  return any(pathlib.Path('/dev').glob('nvidia[0-9]*'))


def make_repeatable() -> None:
  """Asks XLA for the same bits in each run on GPUs.

  Has no effect without a GPU, if XLA_FLAGS already has the flag, or if JAX has
  started and so read XLA_FLAGS already.
  """
  given = os.environ.get('XLA_FLAGS', '')
  if _FLAG in given or not has_nvidia_gpu() or _has_started():
    return
  os.environ['XLA_FLAGS'] = f'{given} --{_FLAG}=true'.strip()


def repeatable(backends: frozenset[str], device: Any) -> bool | str:
  """Returns True if a repeated run gives the same bits, else why it may not.

  Args:
    backends: tags of the backends that compute the attention.
    device: one of the devices that train.
  """
  if device.platform != 'gpu':
    return True
  given = os.environ.get('XLA_FLAGS', '').split()
  asked = [flag for flag in given if flag.startswith(f'--{_FLAG}')]
  if not asked or asked[-1] not in (f'--{_FLAG}', f'--{_FLAG}=true'):
    return f'not repeatable: XLA_FLAGS lacks --{_FLAG}=true'
  if 'tokamax' in backends:
    return 'not repeatable: --backend=tokamax promises nothing'
  return True


def _has_started() -> bool:
  """Returns whether JAX has started, after which this number is fixed."""
  name = 'jax_num_cpu_devices'
  number = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
  try:
    jax.config.update(name, number + 1)
    jax.config.update(name, number)
  except RuntimeError:
    return True
  return False
