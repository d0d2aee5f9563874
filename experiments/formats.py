"""How numbers and names are written, the same everywhere."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from experiments.shown import shown

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
    # Neither active under babel nor lacking in an encoding of fonts.
    '"': r'{\char34}',
    '`': r'\textasciigrave{}',
    # What follows the end of a row is an argument of it.
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
  r'(?<!\w)_|_(?!\w)'  # emphasis, which within a word is none
  r'|(?<=\w):(?=//)|(?<=\bwww)\.|@'  # what becomes a link
  # What makes a line a heading, a quotation or a list.
  r'|^[#>=]|^[-+](?=\s)|(?<=^\d)[.)](?=\s)|(?<=^\d\d)[.)](?=\s)'
)


def title(metric: str) -> str:
  """Returns the name of a metric as a reader would write it."""
  return metric.replace('_', ' ')


def number(value: float | None, signed: bool = False) -> str:
  """Returns four decimals, or two digits where these would say 0.0000."""
  if value is None or not math.isfinite(value):
    return MISSING
  size = abs(value)
  decimals = '.1e' if 0 < size < 5e-5 or size >= 1e5 else '.4f'
  return format(value, ('+' if signed and value else '') + decimals)


def count(count: int | None) -> str:
  """Returns a count with its thousands apart."""
  return MISSING if count is None else f'{count:,}'


def p_value(p: float | None) -> str:
  """Returns a p value with three decimals, or that these would say 0."""
  if p is None:
    return MISSING
  return '<0.001' if p < 0.001 else f'{p:.3f}'


def percent(share: float) -> str:
  """Returns 0.05 as 5 %."""
  return f'{100 * share:g} %'


def unit(values: Iterable[float | None]) -> tuple[str, float]:
  """Returns the prefix, and its size, in which the values read best."""
  largest = max((abs(value) for value in values if value), default=0.0)
  for prefix, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if largest >= size:
      return prefix, size
  return '', 1.0


def seconds(seconds: float | None) -> str:
  """Returns seconds with a decimal as long as that is worth reading."""
  if seconds is None or not math.isfinite(seconds):
    return MISSING
  return f'{seconds:.1f}' if seconds < 100 else f'{seconds:,.0f}'


def finite(value: Any) -> Any:
  """Returns `value` with null for NaN and infinity, which JSON lacks."""
  if isinstance(value, dict):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def json_text(value: Any) -> str:
  """Returns indented JSON, with null for what has no number."""
  return json.dumps(finite(value), indent=2, allow_nan=False) + '\n'


def markdown(text: str) -> str:
  """Returns `text` without a meaning for Markdown or HTML."""
  text = _ENTITY.sub('&amp;', shown(text)).translate(_MARKDOWN)
  return _MARKUP.sub(r'\\\g<0>', text)


def tex(text: str) -> str:
  """Returns `text` without a meaning for TeX."""
  hyphens = shown(text).translate(_TEX)
  return re.sub('-(?=-)', '-{}', hyphens).replace(MISSING, '--')


def csv_text(text: str) -> str:
  """Returns `text` that no spreadsheet takes for a formula."""
  text = shown(text)
  return f"'{text}" if text.lstrip()[:1] in ('=', '+', '-', '@') else text


def tex_number(text: str) -> str:
  """Returns a number or interval in maths, for its minus and exponent."""
  if not re.search(r'\d', text):
    return tex(text)
  text = re.sub(
    r'e[+]?(-?)0*(\d+)', r'\\times 10^{\1\2}', text.replace(', ', r',\ ')
  ).replace('±', r'\pm')
  return f'${re.sub(r",(?=[0-9])", "{,}", text)}$'
