"""Files that survive a kill, and JSON with checksums that detect changes.

A file is either replaced atomically or extended by whole lines.  JSON objects,
and each object of a JSON lines file, carry a checksum in a last field `sum`.
Files of older versions have no checksums and are accepted without.
"""

import hashlib
import itertools
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from train.core.trees import flatten
from train.files.strict import DamagedFile, check_type, parse_json
from train.files.version import (
  FIRST,
  FormatRange,
  UnreadableFormat,
  check_format,
)

T = TypeVar('T')
SUM = 'sum'
_FIX = 'make it a file that can be read, or move it away'


def cache_folder() -> pathlib.Path:
  """Returns the cache folder: ABLAX_CACHE, or the user's default for Ablax."""
  import pooch

  return pathlib.Path(os.environ.get('ABLAX_CACHE') or pooch.os_cache('ablax'))


# Writing. ---------------------------------------------------------------------


def temporary_path(path: pathlib.Path) -> pathlib.Path:
  """Returns a random, unpredictable temporary name in the folder of a path."""
  return path.with_name(f'.{path.name}.{secrets.token_hex(8)}.tmp')


def unused_path(path: pathlib.Path) -> pathlib.Path:
  """Returns the first of PATH-0, PATH-1, ... that does not exist.

  Counting the existing ones would not do: if one of them was removed, the count
  is the number of the last.
  """
  names = (path.with_name(f'{path.name}-{n}') for n in itertools.count())
  return next(name for name in names if not os.path.lexists(name))


def remove_temporaries(folder: pathlib.Path) -> None:
  """Removes temporary files of killed processes; none may be running."""
  for path in folder.glob('.*.tmp'):
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file atomically: readers see the old content or the new one."""
  data = content.encode() if isinstance(content, str) else content
  beside = temporary_path(path)
  try:
    # O_EXCL: never write to an existing file, nor to what a link points to.
    with open(_descriptor(beside, os.O_EXCL), 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def _descriptor(path: pathlib.Path, flags: int) -> int:
  flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  return os.open(path, flags, 0o666)


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Replaces a file by a JSON object with a checksum, atomically."""
  text = json.dumps(_with_checksum(value), indent=2, allow_nan=False)
  write_atomically(path, text + '\n')


def append_text(path: pathlib.Path, content: str | bytes) -> None:
  """Appends to a file, which must not be a link, and syncs it to disk."""
  data = content.encode() if isinstance(content, str) else content
  refuse_link(path)
  with open(_descriptor(path, os.O_APPEND), 'ab') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())


def refuse_link(path: pathlib.Path) -> None:
  """Raises DamagedFile if a path is a symbolic link, which we never write."""
  if path.is_symlink():
    raise DamagedFile(f'{path}: is a link', 'remove it')


def append_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Appends JSON lines with checksums to a file, and syncs it to disk."""
  append_text(path, _json_lines(values))


def write_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Replaces a file by JSON lines with checksums, atomically."""
  write_atomically(path, _json_lines(values))


def _json_lines(values: Sequence[Mapping[str, Any]]) -> bytes:
  signed = map(_with_checksum, values)
  lines = [json.dumps(value, allow_nan=False) + '\n' for value in signed]
  return ''.join(lines).encode()


def _with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an object with its checksum as an additional last field."""
  return {**value, SUM: _checksum(value)}


def _checksum(value: Mapping[str, Any]) -> str:
  """Returns the first 64 bits of the sha256 of an object, in hexadecimal."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


# Reading. ---------------------------------------------------------------------


def _without_checksum(value: Any) -> tuple[Any, bool]:
  """Returns an object without its checksum, and whether it had one.

  Raises:
    ValueError: the checksum does not match.
  """
  if not isinstance(value, dict) or SUM not in value:
    return value, False
  rest = {name: x for name, x in value.items() if name != SUM}
  if value[SUM] != _checksum(rest):
    raise ValueError('does not match its checksum')
  return rest, True


def read_json(
  path: pathlib.Path,
  cls: type[T],
  way_out: str,
  read: FormatRange | None = None,
) -> T:
  """Returns the JSON object in a file as an instance of a dataclass.

  Args:
    path: the file.
    cls: the dataclass.
    way_out: advice for the error message if the file cannot be read.
    read: the formats that are accepted, if the file carries a format number.
      The number is checked before the other fields, since these may differ
      between formats; a file without a number must be of the first format.

  Raises:
    DamagedFile: the file is absent, or was changed after it was written.
    OtherFormat: it has a format that this version cannot read.
  """
  try:
    value, _ = _without_checksum(parse_json(read_file_bytes(path)))
    numbered = isinstance(value, dict) and 'format' in value
    if read is not None and numbered:
      check_format(value['format'], path, read)
    found = check_type(cls, value)
    if read is not None and not numbered:
      check_format(FIRST, path, read)
    return found
  except UnreadableFormat:
    raise  # the file is not damaged
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise DamagedFile(f'{path}: is damaged ({reason})', way_out) from e


def read_file_bytes(path: pathlib.Path) -> bytes:
  """Returns the bytes of a file; raises ValueError for a pipe or a device."""
  if path.exists() and not path.is_file():
    raise ValueError('is no file')
  return path.read_bytes()


class DamagedLine(NamedTuple):
  """A damaged line of a file: its number from 1, the problem, its bytes."""

  number: int
  reason: str
  line: bytes


class JsonLines(NamedTuple):
  """The content of a JSON lines file: intact objects and damaged lines.

  Attributes:
    values: the intact objects, without their checksums.
    places: line number of each object, from 1.
    faults: the damaged lines.
    as_written: whether writing `values` again would give the same file.
  """

  values: list[dict[str, Any]]
  places: list[int]
  faults: list[DamagedLine]
  as_written: bool

  def said(self, path: pathlib.Path) -> list[str]:
    """Returns a message for each damaged line of the file `path`."""
    return [
      f'{path}: line {fault.number} is damaged ({fault.reason})'
      for fault in self.faults
    ]


def read_json_lines(
  path: pathlib.Path, accept: Callable[[Any], object]
) -> JsonLines:
  """Reads a JSON lines file; one that does not exist has no lines.

  An incomplete last line, which a kill leaves, is dropped and is no damage.

  Args:
    path: the file.
    accept: raises ValueError for a value that is not valid in this file.

  Raises:
    DamagedFile: the file cannot be read at all.
  """
  if not path.exists():
    return JsonLines([], [], [], as_written=True)
  try:
    *whole, last = read_file_bytes(path).split(b'\n')
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise DamagedFile(f'{path}: cannot be read ({reason})', _FIX) from e
  found: list[tuple[int, bytes, dict[str, Any], bool]] = []
  faults: list[DamagedLine] = []
  for number, line in enumerate([*whole, last], 1):
    if not line.strip():
      continue
    try:
      value, has_sum = _without_checksum(parse_json(line))
      accept(value)
      found.append((number, line, value, has_sum))
    except ValueError as e:
      # A last line with its closing brace was complete, hence is damaged.
      if number <= len(whole) or line.rstrip()[-2:].count(b'}'):
        faults.append(DamagedLine(number, str(e).splitlines()[0][:200], line))
  # Either all lines have a checksum, or none: the file predates checksums.
  if any(has_sum for *_, has_sum in found):
    for number, line, _, has_sum in found:
      if not has_sum:
        faults.append(DamagedLine(number, 'has no checksum', line))
    found = [one for one in found if one[3]]
  as_written = not last and not faults and all(one[3] for one in found)
  values = [value for _, _, value, _ in found]
  places = [number for number, *_ in found]
  return JsonLines(values, places, sorted(faults), as_written)


def write_kept(
  path: pathlib.Path, found: JsonLines, keep: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
  """Rewrites a JSON lines file with the objects to keep and the damaged lines.

  Args:
    path: the file.
    found: its content, as `read_json_lines` returned it.
    keep: whether to keep an object.

  Returns:
    The objects that were kept.
  """
  kept = [
    (place, value)
    for place, value in zip(found.places, found.values, strict=True)
    if keep(value)
  ]
  parts = [(place, _json_lines([value])) for place, value in kept]
  parts += [(fault.number, fault.line + b'\n') for fault in found.faults]
  write_atomically(path, b''.join(line for _, line in sorted(parts)))
  return [value for _, value in kept]


def read_intact_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the intact objects of a JSON lines file, without checksums."""
  return read_json_lines(path, _check_object).values


def _check_object(value: object) -> None:
  if not isinstance(value, dict):
    raise ValueError('is not an object')


def digest(params: Any) -> str:
  """Returns the sha256 of parameters: their paths, dtypes, shapes and bytes."""
  total = hashlib.sha256()
  for path, array in sorted(flatten(params).items()):
    host = np.asarray(array)
    total.update(f'{path} {host.dtype} {host.shape}\n'.encode())
    total.update(np.ascontiguousarray(host).tobytes())
  return total.hexdigest()
