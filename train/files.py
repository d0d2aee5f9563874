"""Files that survive a kill, and show it if they were changed.

Each file is replaced as a whole, or grows by whole lines.  What is read again
carries a checksum: JSON objects, and JSON lines each, in a last field `sum`.
Files of versions before it have none and are taken as they are.
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

from train.optimizer import flat
from train.strict import Damaged, check, parse_json

T = TypeVar('T')
SUM = 'sum'
_READABLE = 'make it a file that can be read, or move it away'


def cache() -> pathlib.Path:
  """Returns the folder ABLAX_CACHE, or the user's own for this program."""
  import pooch

  return pathlib.Path(os.environ.get('ABLAX_CACHE') or pooch.os_cache('ablax'))


# Writing. ---------------------------------------------------------------------


def temporary(path: pathlib.Path) -> pathlib.Path:
  """Returns a name beside a path that nobody can foresee."""
  return path.with_name(f'.{path.name}.{secrets.token_hex(8)}.tmp')


def unused(path: pathlib.Path) -> pathlib.Path:
  """Returns PATH-0, or the first such number that nothing here has.

  Not how many there are: where one of them was removed, that is the last's.
  """
  names = (path.with_name(f'{path.name}-{n}') for n in itertools.count())
  return next(name for name in names if not os.path.lexists(name))


def remove_temporaries(folder: pathlib.Path) -> None:
  """Removes what killed processes left in a folder, where none is at work."""
  for path in folder.glob('.*.tmp'):
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces a file: a reader sees the old one or the new one, whole."""
  data = content.encode() if isinstance(content, str) else content
  beside = temporary(path)
  try:
    # Never what is there already, and never what a link points to.
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
  """Replaces a file by a JSON object with its checksum."""
  text = json.dumps(_sealed(value), indent=2, allow_nan=False)
  write_atomically(path, text + '\n')


def append_text(path: pathlib.Path, content: str | bytes) -> None:
  """Appends to a file that is no link, and waits until the disk has it."""
  data = content.encode() if isinstance(content, str) else content
  refuse_link(path)
  with open(_descriptor(path, os.O_APPEND), 'ab') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())


def refuse_link(path: pathlib.Path) -> None:
  """Raises Damaged where a link stands in the place of a file of ours."""
  if path.is_symlink():
    raise Damaged(f'{path}: is a link', 'remove it')


def append_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Appends JSON lines and waits until the disk has them."""
  append_text(path, _lines(values))


def write_lines(
  path: pathlib.Path, values: Sequence[Mapping[str, Any]]
) -> None:
  """Replaces a file by JSON lines."""
  write_atomically(path, _lines(values))


def _lines(values: Sequence[Mapping[str, Any]]) -> bytes:
  sealed = map(_sealed, values)
  lines = [json.dumps(value, allow_nan=False) + '\n' for value in sealed]
  return ''.join(lines).encode()


def _sealed(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an object with its checksum."""
  return {**value, SUM: _sum(value)}


def _sum(value: Mapping[str, Any]) -> str:
  """Returns 64 bits of the sha256 of an object, in hexadecimal digits."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


# Reading. ---------------------------------------------------------------------


def _unsealed(value: Any) -> tuple[Any, bool]:
  """Returns an object without its checksum, and whether it had one.

  Raises:
    ValueError: it is another object's.
  """
  if not isinstance(value, dict) or SUM not in value:
    return value, False
  rest = {name: x for name, x in value.items() if name != SUM}
  if value[SUM] != _sum(rest):
    raise ValueError('does not match its checksum')
  return rest, True


def read_json(path: pathlib.Path, cls: type[T], way_out: str) -> T:
  """Returns the object of a file as the dataclass that says what it holds.

  Args:
    path: the file.
    cls: the dataclass.
    way_out: what to do if it cannot be read.

  Raises:
    Damaged: it is absent, or not as it was written.
  """
  try:
    return check(cls, _unsealed(parse_json(content(path)))[0])
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise Damaged(f'{path}: is damaged ({reason})', way_out) from e


def content(path: pathlib.Path) -> bytes:
  """Returns the bytes of a file, which must not be a pipe or a device."""
  if path.exists() and not path.is_file():
    raise ValueError('is no file')
  return path.read_bytes()


class Fault(NamedTuple):
  """A line that is not as it was written: its number, what is wrong, itself."""

  number: int
  reason: str
  line: bytes


class Lines(NamedTuple):
  """The JSON lines of a file: objects, and what is none any more.

  Attributes:
    values: the objects, without their checksums.
    places: the number of each one's line.
    faults: lines that are damaged.
    as_written: whether writing `values` again would change nothing.
  """

  values: list[dict[str, Any]]
  places: list[int]
  faults: list[Fault]
  as_written: bool

  def said(self, path: pathlib.Path) -> list[str]:
    """Returns a line of text for each damaged one of this file."""
    return [
      f'{path}: line {fault.number} is damaged ({fault.reason})'
      for fault in self.faults
    ]


def all_lines(path: pathlib.Path, accept: Callable[[Any], object]) -> Lines:
  """Returns the JSON lines of a file; none if it is not there.

  A last line that a kill tore is left out, and is no damage.

  Args:
    path: the file.
    accept: raises ValueError for a value that does not belong there.
  """
  if not path.exists():
    return Lines([], [], [], as_written=True)
  try:
    *whole, last = content(path).split(b'\n')
  except (OSError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise Damaged(f'{path}: cannot be read ({reason})', _READABLE) from e
  found: list[tuple[int, bytes, dict[str, Any], bool]] = []
  faults: list[Fault] = []
  for number, line in enumerate([*whole, last], 1):
    if not line.strip():
      continue
    try:
      value, sealed = _unsealed(parse_json(line))
      accept(value)
      found.append((number, line, value, sealed))
    except ValueError as e:
      # What follows a brace that closed was more than a part of a line.
      if number <= len(whole) or line.rstrip()[-2:].count(b'}'):
        faults.append(Fault(number, str(e).splitlines()[0][:200], line))
  # Either all lines have a checksum, or they are older than checksums.
  if any(sealed for *_, sealed in found):
    for number, line, _, sealed in found:
      if not sealed:
        faults.append(Fault(number, 'has no checksum', line))
    found = [one for one in found if one[3]]
  as_written = not last and not faults and all(one[3] for one in found)
  values = [value for _, _, value, _ in found]
  places = [number for number, *_ in found]
  return Lines(values, places, sorted(faults), as_written)


def write_kept(
  path: pathlib.Path, found: Lines, keep: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
  """Writes a file of lines anew with what is kept, damaged lines as they are.

  Returns:
    What was kept.
  """
  kept = [
    (place, value)
    for place, value in zip(found.places, found.values, strict=True)
    if keep(value)
  ]
  parts = [(place, _lines([value])) for place, value in kept]
  parts += [(fault.number, fault.line + b'\n') for fault in found.faults]
  write_atomically(path, b''.join(line for _, line in sorted(parts)))
  return [value for _, value in kept]


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the JSON lines of a file that are whole, without checksums."""
  return all_lines(path, _object).values


def _object(value: object) -> None:
  if not isinstance(value, dict):
    raise ValueError('is not an object')


def digest(params: Any) -> str:
  """Returns the sha256 of parameters: their paths, types, shapes and bytes."""
  total = hashlib.sha256()
  for path, array in sorted(flat(params).items()):
    host = np.asarray(array)
    total.update(f'{path} {host.dtype} {host.shape}\n'.encode())
    total.update(np.ascontiguousarray(host).tobytes())
  return total.hexdigest()
