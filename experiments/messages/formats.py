"""Formats of numbers and names, the same in all output."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from experiments.messages.escapes import escape_name

MISSING = '–'
_TEX = str.maketrans(
  {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '&': r'\&',
    '%': r'\%',
    '$': r'\$',
    '#': r'\#',
    '_': r'\_',
    '{': r'\{',
    '}': r'\}',
    '|': r'\textbar{}',
    # Active under babel, or missing in some font encodings.
    '"': r'{\char34}',
    '`': r'\textasciigrave{}',
    # After the end of a row, these would be read as its argument.
    '[': '{[}',
    '*': '{*}',
    '±': r'$\pm$',
  }
)
_MARKDOWN = str.maketrans(
  {
    '\\': r'\\',
    '|': r'\|',
    '*': r'\*',
    '`': r'\`',
    '[': r'\[',
    ']': r'\]',
    '~': r'\~',
    '<': '&lt;',
  }
)
_ENTITY = re.compile(r'&(?=[#\w])')
_MARKUP = re.compile(
  r'(?<!\w)_|_(?!\w)'  # emphasis, but not within a word
  r'|(?<=\w):(?=//)|(?<=\bwww)\.|@'  # automatic links
  # At the start of a line: headings, quotations, lists.
  r'|^[#>=]|^[-+](?=\s)|(?<=^\d)[.)](?=\s)|(?<=^\d\d)[.)](?=\s)'
)


def title(metric: str) -> str:
  """Returns the name of a metric with spaces for underscores."""
  return metric.replace('_', ' ')


def format_number(value: float | None, signed: bool = False) -> str:
  """Returns a number with four decimals; very small or large, two digits."""
  if value is None or not math.isfinite(value):
    return MISSING
  size = abs(value)
  decimals = '.1e' if 0 < size < 5e-5 or size >= 1e5 else '.4f'
  return format(value, ('+' if signed and value else '') + decimals)


def format_count(count: int | None) -> str:
  """Returns a count with commas between thousands."""
  return MISSING if count is None else f'{count:,}'


def format_number_of(count: int, noun: str) -> str:
  """Returns a count of things in words: `1 seed`, `5 seeds`."""
  return f'{format_count(count)} {noun}{"" if count == 1 else "s"}'


def format_p_value(p: float | None) -> str:
  """Returns a p value with three decimals, or <0.001."""
  if p is None:
    return MISSING
  return '<0.001' if p < 0.001 else f'{p:.3f}'


def format_percent(share: float) -> str:
  """Returns a share as a percentage: 0.05 is 5 %."""
  return f'{100 * share:g} %'


def si_prefix(values: Iterable[float | None]) -> tuple[str, float]:
  """Returns the SI prefix for the largest of the values, and its factor."""
  largest = max((abs(value) for value in values if value), default=0.0)
  for prefix, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if largest >= size:
      return prefix, size
  return '', 1.0


def format_seconds(seconds: float | None) -> str:
  """Returns seconds, with one decimal below 100."""
  if seconds is None or not math.isfinite(seconds):
    return MISSING
  return f'{seconds:.1f}' if seconds < 100 else f'{seconds:,.0f}'


def format_expected(seconds: float) -> str:
  """Returns an expected time in minutes."""
  if seconds < 60:
    return 'under a minute'
  return f'about {seconds / 60:.1f} minutes'


def finite_json(value: Any) -> Any:
  """Returns a JSON value with None for NaN and infinity, which JSON lacks."""
  if isinstance(value, dict):
    return {key: finite_json(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite_json(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def json_text(value: Any) -> str:
  """Returns indented JSON, with null for NaN and infinity."""
  return json.dumps(finite_json(value), indent=2, allow_nan=False) + '\n'


def escape_markdown(text: str) -> str:
  """Returns `text` escaped for Markdown and HTML."""
  text = _ENTITY.sub('&amp;', escape_name(text)).translate(_MARKDOWN)
  return _MARKUP.sub(r'\\\g<0>', text)


def escape_tex(text: str) -> str:
  """Returns `text` escaped for TeX."""
  hyphens = escape_name(text).translate(_TEX)
  return re.sub('-(?=-)', '-{}', hyphens).replace(MISSING, '--')


def escape_csv(text: str) -> str:
  """Returns `text` escaped so that no spreadsheet reads it as a formula."""
  text = escape_name(text)
  return f"'{text}" if text.lstrip()[:1] in ('=', '+', '-', '@') else text


def format_tex_number(text: str) -> str:
  """Returns a number or interval in TeX's maths mode, with `10^n` for `en`."""
  if not re.search(r'\d', text):
    return escape_tex(text)
  text = re.sub(
    r'e[+]?(-?)0*(\d+)', r'\\times 10^{\1\2}', text.replace(', ', r',\ ')
  ).replace('±', r'\pm')
  return f'${re.sub(r",(?=[0-9])", "{,}", text)}$'
