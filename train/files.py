"""Files that survive a kill: atomic replacement, and append-only lines."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.optimizer import flat


def cache() -> pathlib.Path:
  """Returns the folder ABLAX_CACHE, or the user's own for this program."""
  import pooch

  return pathlib.Path(os.environ.get('ABLAX_CACHE') or pooch.os_cache('ablax'))


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file: a reader sees the old one or the new one, whole."""
  data = content.encode() if isinstance(content, str) else content
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with temporary.open('wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces a file by a JSON value."""
  write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def append_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Appends JSON lines and waits until the disk has them."""
  with path.open('ab') as f:
    f.write(_lines(values))
    f.flush()
    os.fsync(f.fileno())


def write_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Replaces a file by JSON lines."""
  write_atomically(path, _lines(values))


def _lines(values: Sequence[Mapping[str, Any]]) -> bytes:
  lines = [json.dumps(value, allow_nan=False) + '\n' for value in values]
  return ''.join(lines).encode()


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the JSON lines of a file; a line torn by a kill is left out."""
  if not path.exists():
    return []
  lines = []
  for line in path.read_bytes().split(b'\n'):
    try:
      value = json.loads(line)
    except ValueError:
      continue
    if isinstance(value, dict):
      lines.append(value)
  return lines


def mend_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the JSON lines of a file, and removes a torn last one."""
  lines = read_lines(path)
  if path.exists() and not path.read_bytes().endswith(b'\n'):
    write_lines(path, lines)
  return lines


def digest(params: Any) -> str:
  """Returns the sha256 of parameters: their paths, types, shapes and bytes."""
  total = hashlib.sha256()
  for path, array in sorted(flat(params).items()):
    host = np.asarray(array)
    total.update(f'{path} {host.dtype} {host.shape}\n'.encode())
    total.update(np.ascontiguousarray(host).tobytes())
  return total.hexdigest()
