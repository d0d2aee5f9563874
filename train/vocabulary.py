"""Text as token ids and back: characters, or bytes."""

import dataclasses
from typing import Literal

import numpy as np

Level = Literal['char', 'byte']


class UnknownCharacters(ValueError):
  """A text has characters that the vocabulary lacks."""

  def __init__(self, characters: str):
    shown = ' '.join(repr(c) for c in characters[:8])
    more = ' ...' if len(characters) > 8 else ''
    super().__init__(
      f'{len(characters)} characters are not in the vocabulary: {shown}{more}'
    )


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The symbols that token ids stand for."""

  level: Level
  characters: str = ''

  @staticmethod
  def of(text: str, level: Level) -> 'Vocabulary':
    """Returns the vocabulary of a text: its sorted characters, or 256 bytes."""
    return Vocabulary(
      level, ''.join(sorted(set(text))) if level == 'char' else ''
    )

  @property
  def size(self) -> int:
    """Returns the number of symbols."""
    return len(self.characters) if self.level == 'char' else 256

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of a text.

    Raises:
      UnknownCharacters: the vocabulary lacks some of them.
    """
    if self.level == 'byte':
      return np.frombuffer(text.encode(), np.uint8)
    codes = np.frombuffer(text.encode('utf-32-le'), np.uint32)
    known = np.frombuffer(self.characters.encode('utf-32-le'), np.uint32)
    ids = np.searchsorted(known, codes)
    missing = known[np.minimum(ids, known.size - 1)] != codes
    if missing.any():
      absent = np.unique(codes[missing])
      raise UnknownCharacters(''.join(map(chr, absent)))
    return ids.astype(np.uint8 if known.size <= 256 else np.int32)

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of ids; broken UTF-8 becomes replacement characters."""
    if self.level == 'byte':
      return bytes(int(i) for i in ids).decode(errors='replace')
    return ''.join(self.characters[int(i)] for i in ids)

  def symbols(self, ids: np.ndarray) -> list[str]:
    """Returns each id's symbol; bytes beyond ASCII as hexadecimal."""
    if self.level == 'char':
      return [self.characters[int(i)] for i in ids]
    return [chr(i) if i < 128 else f'{i:02x}' for i in map(int, ids)]
