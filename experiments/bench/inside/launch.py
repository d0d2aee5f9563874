"""`launch.py` in this process, which can then ask the device for its memory."""

import runpy
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Runs the file with its words, and yields the most memory in use.

  Raises:
    SystemExit: the command failed.
  """
  sys.argv = [given['path'], *given['words']]
  try:
    runpy.run_path(given['path'], run_name='__main__')
  except SystemExit as e:
    if e.code:
      raise
  yield {'peak_bytes': device_peak()}


def device_peak() -> int | None:
  """Returns the most memory in use of a device; None if none can tell."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((s.get('peak_bytes_in_use', 0) for s in stats), default=0) or None
