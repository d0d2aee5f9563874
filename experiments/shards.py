"""--shard=I/N: the trials that one of several machines runs."""

import dataclasses
import zlib

from model.core.field import FieldError


@dataclasses.dataclass(frozen=True)
class Shard:
  """Part `index` of `count` parts, counted from 1."""

  index: int
  count: int

  def has(self, row: str, seed: int) -> bool:
    """Returns whether a trial belongs to this part.

    The seeds of a row go to the parts in turn, from a first part that depends
    on the row's name only.  So a trial stays in its part when other rows or
    seeds are added.
    """
    first = zlib.crc32(row.encode())
    return (first + seed) % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
  """Parses 'I/N'.

  Raises:
    FieldError: the text is not I/N with I from 1 to N.
  """
  numbers = [int(n) for n in text.split('/') if n.isdecimal()]
  if (
    text != '/'.join(map(str, numbers))
    or len(numbers) != 2
    or not 1 <= numbers[0] <= numbers[1]
  ):
    raise FieldError(
      'shard', text, 'must be I/N with I from 1 to N: 1/4 is the first of four'
    )
  return Shard(*numbers)
