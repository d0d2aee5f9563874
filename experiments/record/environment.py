"""The environment of a run: versions, devices, state of the sources."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import tomllib
from collections.abc import Sequence
from typing import Any

import jax

from train.devices.repeatable import has_nvidia_gpu

RECORDED_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'absl-py',
  'numpy',
  'scipy',
  'statsmodels',
  'tokenizers',
)


def describe_environment(devices: Sequence[Any]) -> dict[str, Any]:
  """Returns versions, devices and git state, as JSON values."""
  return {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'cpu_count': os.cpu_count(),
    'packages': {
      name: importlib.metadata.version(name) for name in RECORDED_PACKAGES
    },
    'devices': [f'{d.platform}:{d.id} {d.device_kind}' for d in devices],
    'git': _git(),
  }


def versions() -> str:
  """Returns the versions of Ablax and its main packages, as text."""
  project = pathlib.Path(__file__).resolve().parents[2] / 'pyproject.toml'
  own = tomllib.loads(project.read_text())['project']['version']
  others = [
    f'{name} {importlib.metadata.version(name)}'
    for name in ('jax', 'flax', 'optax')
  ]
  return ', '.join(
    [f'Ablax {own}', *others, f'Python {platform.python_version()}']
  )


def _git() -> dict[str, Any]:
  """Returns the commit and whether files differ from it, or {} without git."""
  here = pathlib.Path(__file__).resolve().parent
  commands = {
    'commit': ['rev-parse', 'HEAD'],
    'changed': ['status', '--porcelain', '--untracked-files=no'],
  }
  out = {}
  for name, arguments in commands.items():
    try:
      out[name] = subprocess.run(
        ['git', '-C', str(here), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
      ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
      return {}
  return out | {'changed': bool(out['changed'])}


def accelerator_warning() -> str | None:
  """Returns a warning if a GPU is present but JAX uses the CPU, else None."""
  if jax.default_backend() != 'cpu' or os.environ.get('JAX_PLATFORMS') == 'cpu':
    return None
  if not has_nvidia_gpu():
    return None
  return (
    'a GPU is present, but JAX fell back to the CPU: '
    'pip install -r requirements-cuda.txt'
  )
