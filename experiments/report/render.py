"""Renders a table, its curves and attention maps as one HTML file."""

import base64
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import markupsafe
import numpy as np
from numpy import typing as npt
from PIL import Image

from experiments.messages import formats
from experiments.messages.escapes import escape_name, escape_text
from experiments.report import charts
from experiments.report.forest import forest
from experiments.report.sensitivity import sensitivities
from experiments.rows.tuning import TuningResult
from experiments.table import claim_lines, table_files
from experiments.table import table as tables
from train.core.metric import VAL_LOSS
from train.files.durable import write_atomically

_FILE = 'report.html'
_MAX_TOKENS = 128
_MAX_MAP_BYTES = 1_500_000
_POSITIVE = (46, 117, 190)
_NEGATIVE = (204, 90, 20)
_VISIBLE = str.maketrans({' ': '␣', '\n': '⏎', '\t': '⇥', '\r': '␍'})


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
  """Attention weights for one pair of sequences.

  Attributes:
    queries: tokens of the queries (T).
    keys: tokens of the keys (S).
    weights_LNTS: weights by layer, head, query and key.
  """

  queries: Sequence[str]
  keys: Sequence[str]
  weights_LNTS: npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Sample:
  """A generated text.

  Attributes:
    how: the sampling, in words.
    prompt: the text before it.
    text: the generated text.
  """

  how: str
  prompt: str
  text: str


@dataclasses.dataclass(frozen=True)
class Report:
  """The content of the page."""

  title: str
  claim: str
  citation: str
  command: str
  definitions: str
  table: tables.AblationTable
  curves: charts.Curves
  plotted: str
  train_curves: charts.Curves
  tuned: Mapping[str, TuningResult]
  retired: Mapping[str, str]
  attention: Mapping[str, Mapping[str, AttentionMaps]]
  samples: Mapping[str, Sample]
  environment: Mapping[str, object]
  row_commands: Mapping[str, str]
  row_changes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _EncodedMaps:
  """Attention maps with one byte q per weight.

  weight = scale * sign(q - zero) * ((q - zero) / span)^2.  The square root
  keeps the small weights of a diffuse head distinct, which a linear byte would
  not.
  """

  row: str
  kind: str
  queries: list[str]
  keys: list[str]
  shape: tuple[int, ...]
  scale: float
  zero: int
  span: int
  data: str
  note: str


@dataclasses.dataclass(frozen=True)
class _StaticMaps:
  """The maps of one kind as PNGs, by layer and head, for readers without JS."""

  kind: str
  shape: tuple[int, ...]
  layers: list[list[str]]


def write_report(directory: pathlib.Path, report: Report) -> pathlib.Path:
  """Writes report.html, atomically, and returns its path."""
  path = directory / _FILE
  write_atomically(path, render(report))
  return path


def environment() -> jinja2.Environment:
  """Returns the Jinja environment of the templates, which escapes HTML."""
  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_printable,
  )
  made.filters |= _FILTERS
  return made


def render(report: Report) -> str:
  """Returns the page, which loads nothing from elsewhere."""
  maps, pictures = _attention(report)
  rows = [row.row for row in report.table.rows]
  return (
    environment()
    .get_template(f'{_FILE}.j2')
    .render(
      report=report,
      table=report.table,
      strokes=charts.strokes(report.table),
      forest=forest(report.table),
      flops=table_files.flops(report.table),
      statement=table_files.explanation(report.table),
      detectable=table_files.DETECTABLE,
      notes=table_files.notes(report.table),
      failed=claim_lines.failed_controls(report.table),
      claims=claim_lines.sections(report.table),
      targets=any(row.targets for row in report.table.rows),
      charts=_charts(report),
      reading=charts.READING,
      sensitivities=sensitivities(report.tuned, report.table),
      single=[row.row for row in report.table.rows if row.seeds == 1],
      maps=[dataclasses.asdict(m) for m in maps],
      pictures=pictures,
      without_maps=[row for row in rows if row not in report.attention],
      environment=json.dumps(
        formats.finite_json(report.environment),
        indent=2,
        default=str,
        ensure_ascii=False,
      ),
    )
  )


def _charts(report: Report) -> tuple[tuple[str, charts.Chart | None], ...]:
  """Returns the learning curves with their titles."""
  return (
    (_title(report.plotted), charts.chart(report.curves, report.table)),
    (
      'Training loss, per token',
      charts.chart(report.train_curves, report.table),
    ),
  )


def _title(plotted: str) -> str:
  """Returns the title of the validation curves."""
  if plotted == VAL_LOSS.name:
    return 'Validation loss'
  return f'Validation: {formats.title(plotted)}'


def _attention(report: Report) -> tuple[list[_EncodedMaps], list[_StaticMaps]]:
  """Returns the maps of all rows, and PNGs of the first row's.

  The base comes first.  The PNGs are for readers without JavaScript.
  """
  order = sorted(report.table.rows, key=lambda row: not row.is_base)
  found = [
    (row.row, kind, maps)
    for row in order
    if row.row in report.attention
    for kind, maps in report.attention[row.row].items()
  ]
  heads = sum(math.prod(maps.weights_LNTS.shape[:2]) for _, _, maps in found)
  room = max(1, math.isqrt(_MAX_MAP_BYTES // max(heads, 1)))
  size = min(_MAX_TOKENS, room)
  encoded, pictures = [], []
  for row, kind, maps in found:
    encoded.append(_encode(row, kind, maps, size))
    if row == found[0][0]:
      pictures.append(_pictures(encoded[-1], maps, size))
  return encoded, pictures


def _encode(
  row: str, kind: str, maps: AttentionMaps, size: int
) -> _EncodedMaps:
  """Encodes the maps of a row for the first `size` tokens."""
  weights_LNTS = maps.weights_LNTS[..., :size, :size]
  finite = np.isfinite(weights_LNTS)
  known = weights_LNTS[finite]
  signed = bool(np.any(known < 0))
  largest = float(np.max(np.abs(known), initial=0.0))
  notes = []
  if not finite.all():
    notes.append('Weights that are not finite are shown as 0.')
  if max(maps.weights_LNTS.shape[2:]) > size:
    notes.append(
      f'The first {size} of {max(maps.weights_LNTS.shape[2:])} tokens.'
    )
  encoded = _EncodedMaps(
    row=escape_name(row),
    kind=kind,
    queries=[_visible(token) for token in maps.queries[:size]],
    keys=[_visible(token) for token in maps.keys[:size]],
    shape=weights_LNTS.shape,
    scale=max(1.0, largest),
    zero=128 if signed else 0,
    span=127 if signed else 255,
    data='',
    note=' '.join(notes),
  )
  data = base64.b64encode(_quantise(encoded, maps, size).tobytes()).decode()
  return dataclasses.replace(encoded, data=data)


def _pictures(
  encoded: _EncodedMaps, maps: AttentionMaps, size: int
) -> _StaticMaps:
  """Returns encoded maps as PNGs."""
  return _StaticMaps(
    encoded.kind,
    encoded.shape,
    [
      [_picture(map_TS, encoded.zero, encoded.span) for map_TS in heads_NTS]
      for heads_NTS in _quantise(encoded, maps, size)
    ],
  )


def _quantise(
  encoded: _EncodedMaps, maps: AttentionMaps, size: int
) -> npt.NDArray[np.uint8]:
  """Returns the maps with one byte per weight."""
  weights_LNTS = np.nan_to_num(
    maps.weights_LNTS[..., :size, :size].astype(np.float64),
    posinf=0.0,
    neginf=0.0,
  )
  root_LNTS = np.sign(weights_LNTS) * np.sqrt(
    np.abs(weights_LNTS) / encoded.scale
  )
  return np.rint(encoded.zero + encoded.span * root_LNTS).astype(np.uint8)


def _picture(map_TS: npt.NDArray[np.uint8], zero: int, span: int) -> str:
  """Returns a PNG as base64, with opacity for weight, on any background."""
  picture = Image.fromarray(map_TS, 'P')
  picture.putpalette(
    [c for q in range(256) for c in (_NEGATIVE if q < zero else _POSITIVE)]
  )
  opacity = bytes(
    min(255, round(255 * abs(q - zero) / span)) for q in range(256)
  )
  file = io.BytesIO()
  picture.save(file, 'png', transparency=opacity, optimize=True)
  return base64.b64encode(file.getvalue()).decode()


def _visible(token: str) -> str:
  """Returns a token with visible white space."""
  return escape_name(token.translate(_VISIBLE)) or '∅'


def _printable(value: object) -> object:
  """Replaces invisible characters in text that a template inserts."""
  if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
    return escape_name(value)
  return value


def _multiline(text: str) -> markupsafe.Markup:
  """Escapes a text, and keeps its line breaks."""
  return markupsafe.escape(escape_text(text))


_FILTERS = {
  'number': formats.format_number,
  'count': formats.format_count,
  'seconds': formats.format_seconds,
  'name': formats.title,
  'interval': table_files.format_interval,
  'half': table_files.format_half,
  'difference': table_files.format_difference,
  'tuned': table_files.format_tuned,
  'p': formats.format_p_value,
  'percent': formats.format_percent,
  'text': _multiline,
  'stated': claim_lines.format_claim_number,
  'measured': claim_lines.format_measured,
}
