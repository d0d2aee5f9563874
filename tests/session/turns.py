"""Which of the tests are of a part of all tests."""

import zlib


def is_of(test: str, part: str | None) -> bool:
  """Returns whether a test is of part K/N of all."""
  if part is None:
    return True
  number, parts = map(int, part.split('/'))
  return zlib.crc32(test.encode()) % parts == number
