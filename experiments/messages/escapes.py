r"""Escapes for text from outside, so that it is safe to show.

File names, names of rows, labels, prompts and generated texts may have
characters that control a terminal, are invisible, or reverse the direction of
text.  They are shown as Python's escapes, such as \x1b.
"""

import re
import shlex
import unicodedata
from collections.abc import Sequence

# Unicode: control, format, surrogate, line and paragraph separator.
_HIDDEN = frozenset({'Cc', 'Cf', 'Cs', 'Zl', 'Zp'})
# Allowed in texts: lines, tabs, and joiners of Persian, Hindi or emoji.
_OF_TEXTS = frozenset('\n\t\u200c\u200d')
_LONG = re.compile(r'[^\s|]{1000,}')


def escape_name(text: str) -> str:
  r"""Returns a name with escapes, such as \x1b for ESC, \n for a new line."""
  return text if text.isprintable() else ''.join(map(_escaped, text))


def escape_text(text: str) -> str:
  """Returns a text with escapes, except for its line breaks and tabs."""
  return ''.join(c if c in _OF_TEXTS else _escaped(c) for c in text)


def shorten(message: str) -> str:
  """Returns a message with words of 1000 characters or more cut short."""
  return _LONG.sub(lambda m: f'{m[0][:300]}...{m[0][-100:]}', message)


def command_line(words: Sequence[str]) -> str:
  """Returns words quoted for a shell, with escapes for invisible characters."""
  return ' '.join(map(_quoted, words))


def _escaped(character: str) -> str:
  if unicodedata.category(character) not in _HIDDEN:
    return character
  return character.encode('unicode_escape').decode()


def _quoted(word: str) -> str:
  if escape_name(word) == word:
    return shlex.quote(word)
  escaped = word.replace('\\', r'\\').replace("'", r'\'')
  return f"$'{escape_name(escaped)}'"
