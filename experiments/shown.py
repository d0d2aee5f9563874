"""Text that others wrote, as a terminal or a page may show it.

File names, names of rows, labels, prompts and written texts may hold characters
that a terminal obeys, that cannot be seen, or that turn the order of others
round.  Whoever shows a text shows those as escapes, as Python writes them.
"""

import re
import shlex
import unicodedata
from collections.abc import Sequence

# Control, format, half of a pair; the breaks of lines and paragraphs.
_HIDDEN = frozenset({'Cc', 'Cf', 'Cs', 'Zl', 'Zp'})
# What a written text needs: its lines, and joiners of Persian, Hindi or emoji.
_OF_TEXTS = frozenset('\n\t\u200c\u200d')
_LONG = re.compile(r'[^\s|]{1000,}')


def shown(text: str) -> str:
  r"""Returns a name with \x1b in place of ESC, \n of a new line, and so on."""
  return text if text.isprintable() else ''.join(map(_escaped, text))


def shown_text(text: str) -> str:
  """Returns a text of several lines, which stay lines, its tabs tabs."""
  return ''.join(c if c in _OF_TEXTS else _escaped(c) for c in text)


def shorten(message: str) -> str:
  """Returns a message in which names of thousands of letters are cut."""
  return _LONG.sub(lambda m: f'{m[0][:300]}...{m[0][-100:]}', message)


def command_line(words: Sequence[str]) -> str:
  """Returns words as a shell takes them, what cannot be seen as escapes."""
  return ' '.join(map(_quoted, words))


def _escaped(character: str) -> str:
  if unicodedata.category(character) not in _HIDDEN:
    return character
  return character.encode('unicode_escape').decode()


def _quoted(word: str) -> str:
  if shown(word) == word:
    return shlex.quote(word)
  escaped = word.replace('\\', r'\\').replace("'", r'\'')
  return f"$'{shown(escaped)}'"
