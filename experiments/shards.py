"""--shard=I/N: a part of the trials, for one of several machines."""

import dataclasses
import zlib

from model.field import FieldError


@dataclasses.dataclass(frozen=True)
class Shard:
  """The I-th of N parts, counted from 1."""

  index: int
  count: int

  def has(self, row: str, seed: int) -> bool:
    """Returns whether a trial belongs to this part.

    Each row deals its seeds to the parts in turn.  That depends on nothing
    else, so what a part has it keeps when rows or seeds are added.
    """
    first = zlib.crc32(row.encode())
    return (first + seed) % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
  """Returns the part that a text names.

  Raises:
    FieldError: it names none.
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
