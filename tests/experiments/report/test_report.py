"""The page of a report: self-contained, escaped, whole with data missing."""

import base64
import dataclasses
import html.parser
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from experiments.claims import published
from experiments.report import axes, charts, forest, sensitivity
from experiments.report import render as report
from experiments.rows import tuning
from experiments.table import table as tables
from train.core.metric import Metric

_ATTACK = '<script>alert("1")</script>'


class _Page(html.parser.HTMLParser):
  """Collects the tags of a page and the text of its scripts."""

  def __init__(self, page: str) -> None:
    super().__init__()
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.scripts: list[str] = []
    self.text = ''
    self.feed(page)

  def handle_starttag(
    self, tag: str, attrs: list[tuple[str, str | None]]
  ) -> None:
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data: str) -> None:
    if self.tags and self.tags[-1][0] == 'script' and data.strip():
      self.scripts.append(data)
    self.text += data

  def count(self, tag: str) -> int:
    return sum(name == tag for name, _ in self.tags)


def _table(
  values: Mapping[str, Sequence[float | None]],
) -> tables.AblationTable:
  records: list[dict[str, Any]] = []
  for row, column in values.items():
    for seed, value in enumerate(column):
      status = {'status': 'ok', 'metrics': {'val_loss': value}}
      if value is None:
        status = {'status': 'diverged', 'metrics': {'diverged_at': 7}}
      records.append(
        {'row': row, 'seed': seed, 'clock': {'seconds': 1.0}, **status}
      )
  return tables.make_table(records, list(values), next(iter(values)))


def _maps(size: int = 5, layers: int = 2, heads: int = 3) -> np.ndarray:
  logits_LNTS = np.random.default_rng(0).normal(
    size=(layers, heads, size, size)
  )
  weights_LNTS = np.exp(logits_LNTS)
  return weights_LNTS / weights_LNTS.sum(-1, keepdims=True)


def _to_itself(
  tokens: Sequence[str], weights_LNTS: np.ndarray
) -> dict[str, report.AttentionMaps]:
  return {'self-attention': report.AttentionMaps(tokens, tokens, weights_LNTS)}


def _report() -> report.Report:
  curve = [(step, 5.0 - step / 100) for step in range(0, 101, 10)]
  table = _table({'qkv': [1.0, 2.0], 'raw': [2.0, 3.5]})
  curves = {row.row: {0: curve, 1: curve} for row in table.rows}
  return report.Report(
    title='A & B',
    claim='A < B',
    citation='Paper, https://example.org/a',
    command='python launch.py',
    definitions='Nats per token.',
    table=table,
    curves=curves,
    plotted='val_loss',
    train_curves=curves,
    tuned={},
    retired={},
    attention={'qkv': _to_itself('abcde', _maps())},
    samples={'raw': report.Sample('at <once>', 'Once <b>', ' upon a & time')},
    environment={'versions': {'jax': '0.10.2'}, 'loss': math.nan},
    row_commands={'qkv': 'python launch.py --only=qkv'},
    row_changes={'raw': 'projections=raw'},
  )


def _embedded(page: str) -> list[dict[str, Any]]:
  (text,) = [s for s in _Page(page).scripts if s.startswith('[')]
  return json.loads(text)


def test_page_is_written_with_all_sections(tmp_path: pathlib.Path) -> None:
  path = report.write_report(tmp_path, _report())
  assert path == tmp_path / 'report.html'
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']
  page = _Page(path.read_text())
  for text in (
    'A & B',
    'A < B',
    'Nats per token.',
    'projections=raw',
    'python launch.py --only=qkv',
    '"jax": "0.10.2"',
    '"loss": null',
    '+1.2500',
    'head 2',
    'layer 1',
    'Once <b>',
    'upon a & time',
  ):
    assert text in page.text, text


def test_published_values_and_controls_have_tables() -> None:
  own = published.ClaimVerdict(
    'raw',
    'val_loss',
    1.88,
    _ATTACK,
    'at most 2',
    'not reproduced',
    2.75,
    tables.Interval(2.0, 3.5),
    2,
    f'seeds: 2 of 3 {_ATTACK}',
  )
  control = dataclasses.replace(own, verdict='fail', value=None, source='a')
  clean = _report()
  table = dataclasses.replace(
    clean.table, published=(own,), controls=(control,)
  )
  page = report.render(dataclasses.replace(clean, table=table))
  text = ' '.join(re.sub('<[^>]*>', ' ', page).split())
  for words in (
    'Published values row figure published here ± 95 % seeds verdict accepted',
    'raw val loss 1.88 2.75 ± 0.75 2 not reproduced seeds: 2 of 3 ',
    'at most 2',
    'Controls row figure expected here',
    'A control fails, so no number of this table can be trusted: raw.',
  ):
    assert words in text, words
  assert '<script>alert' not in page
  assert 'Published' not in _Page(report.render(clean)).text


def test_many_columns_take_the_room_beside_the_text() -> None:
  few = _report()
  for names, broad in (([], 0), (['bleu'], 0), (['bleu', 'sacrebleu'], 1)):
    rows = [
      dataclasses.replace(row, figures=dict.fromkeys(names, 1.0))
      for row in few.table.rows
    ]
    table = dataclasses.replace(few.table, rows=rows)
    page = _Page(report.render(dataclasses.replace(few, table=table)))
    classes = [own.get('class') for tag, own in page.tags if tag == 'div']
    assert classes.count('scroll broad') == broad


def test_nothing_is_fetched() -> None:
  page = report.render(_report())
  for tag, attributes in _Page(page).tags:
    assert tag not in ('link', 'iframe', 'object', 'embed', 'base'), tag
    for name, value in attributes.items():
      if name in ('src', 'href', 'xlink:href', 'srcset', 'action', 'poster'):
        assert value is not None
        assert value.startswith(('data:', '#')), (tag, name, value)
  assert not re.search(r'url\((?!#)|@import|fetch\(|XMLHttp|import\(', page)
  assert re.findall(r'\w+://[^\s<"]*', page) == ['https://example.org/a']
  assert "default-src 'none'" in page


def test_names_and_tokens_are_escaped() -> None:
  clean = report.render(_report())
  table = _table({_ATTACK: [1.0, 2.0], 'raw': [2.0, 3.0]})
  curve = {0: [(0, 1.0), (1, 2.0)]}
  page = report.render(
    dataclasses.replace(
      _report(),
      title=_ATTACK,
      claim=_ATTACK,
      citation=_ATTACK,
      command=_ATTACK,
      definitions=_ATTACK,
      table=table,
      curves={_ATTACK: curve},
      train_curves={},
      attention={_ATTACK: _to_itself([_ATTACK] * 5, _maps())},
      samples={_ATTACK: report.Sample(_ATTACK, _ATTACK, _ATTACK)},
      environment={_ATTACK: _ATTACK},
      row_commands={_ATTACK: _ATTACK},
      row_changes={_ATTACK: _ATTACK + 'x'},
    )
  )
  assert '<script>alert' not in page
  assert _Page(page).count('script') == _Page(clean).count('script')
  assert _embedded(page)[0]['keys'] == [_ATTACK] * 5
  assert _ATTACK in _Page(page).text


@pytest.mark.parametrize(
  'change',
  [
    {'attention': {}, 'samples': {}},
    {'curves': {}, 'train_curves': {}},
    {'curves': {'qkv': {}}},
    {'curves': {'qkv': {0: [(1, math.nan)]}}},
    {'table': _table({'qkv': [1.0], 'raw': [2.0]})},
    {'table': _table({'qkv': [1.0, 1.0], 'raw': [None, None]})},
    {'table': _table({'qkv': [None], 'raw': [None]})},
    {'table': _table({'qkv': [1.0]})},
    {'row_commands': {}, 'row_changes': {}, 'environment': {}},
  ],
)
def test_a_page_with_data_missing(change: dict[str, Any]) -> None:
  page = report.render(dataclasses.replace(_report(), **change))
  text = _Page(page).text
  assert not re.search(r'\b(nan|inf)\b', page)
  if 'attention' in change:
    assert 'No attention maps were recorded.' in text
    assert 'after the beginning' not in text
  if 'train_curves' in change:
    assert 'No curve was recorded.' in text
  if 'row_commands' in change:
    assert text.count('No command was recorded.') == 2


def test_missing_rows_are_named() -> None:
  text = _Page(
    report.render(
      dataclasses.replace(
        _report(),
        curves={'qkv': {0: [(0, 1.0)]}},
        table=_table({'qkv': [1.0], 'raw': [None]}),
      )
    )
  ).text
  assert 'No attention maps were recorded for raw.' in text
  assert 'No curve was recorded for raw.' in text
  assert 'One seed only, so no interval: qkv.' in text
  assert '1 diverged: seed 0 at step 7' in ' '.join(text.split())


def test_verdicts_are_words_with_their_reasons() -> None:
  page = _Page(
    report.render(
      dataclasses.replace(
        _report(),
        table=_table(
          {
            'qkv': [1.0, 2.0, 3.0],
            'raw': [2.0, 3.01, 3.99],
            'same': [1.0, 2.0, 3.0],
            'few': [None, None, 3.0],
            'gone': [None, None, None],
          }
        ),
      )
    )
  )
  text = ' '.join(page.text.split())
  assert 'worse <0.001' in text.replace('worse<', 'worse <')
  for part in (
    '± 0.0248',
    'equivalent†',
    'undecided†',
    '† same: the same numbers as the base',
    '† few: 1 paired seed; 2 of 3 diverged, base 0 of 3: p 0.4; 4 rows need '
    '0.0063, so 10 seeds; 2 diverged',
    '† gone: no paired seed; 3 of 3 diverged, base 0 of 3: p 0.1; 4 rows need '
    '0.013, so 5 seeds; 3 diverged',
    't –; diverged 0.400',
    'With fewer than 5 seeds, verdicts assume noise with one mode.',
    'Holm over 4 rows, 5 %',
    'seeds for 1 %',
    'within ±0.0200, 1 % of qkv',
  ):
    assert part in text, part


def test_what_a_row_costs_and_chose() -> None:
  table = _table({'qkv': [1.0, 2.0], 'raw': [2.0, 3.5]})
  rows = [
    dataclasses.replace(
      row,
      flops_per_token=flops,
      parameters=1234,
      tuned={'learning_rate': 3e-4, _ATTACK: _ATTACK},
    )
    for row, flops in zip(table.rows, (2.5e9, 4.44e8), strict=True)
  ]
  page = report.render(
    dataclasses.replace(
      _report(), table=dataclasses.replace(table, rows=tuple(rows))
    )
  )
  assert '<script>alert' not in page
  text = ' '.join(_Page(page).text.split())
  assert 'parametersGFLOPs/token' in text
  assert '1,2342.5' in text
  assert '1,2340.444' in text
  assert 'tuned: learning_rate=0.0003' in text


def _tuned(*losses: float) -> tuning.TuningResult:
  points = tuning.grid(('learning_rate=1e-4 1e-3 1e-2 1e-1',))
  return tuning.choose_best_point(list(zip(points, losses, strict=True)))


def test_what_was_selected_is_drawn() -> None:
  tuned = {
    'qkv': _tuned(3.0, 2.0, 2.5, math.inf),
    'raw': _tuned(3.5, 3.0, 2.2, 9e9),
  }
  filled = dataclasses.replace(
    _report(), tuned=tuned, retired={_ATTACK: 'stopped at step 3'}
  )
  page = report.render(filled)
  assert '<script>alert' not in page
  text = ' '.join(_Page(page).text.split())
  assert 'Did not train to the end with this learning_rate: qkv at 0.1.' in text
  assert 'stopped at step 3' in text
  (chart,) = sensitivity.sensitivities(tuned, filled.table)
  frame, first = chart.frame, chart.traces[0]
  assert len(first.points) == 3
  assert first.chosen == first.points[1]
  places = [place for trace in chart.traces for place in trace.points]
  assert all(frame.left <= x <= frame.right for x, _ in places)
  assert all(frame.top <= y <= frame.bottom for _, y in places)
  # One that all but diverged leaves room to see the others apart.
  assert first.points[0][1] < first.points[1][1] - 20
  gone = {'qkv': _tuned(*[math.inf] * 4)}
  assert sensitivity.sensitivities(gone, filled.table) == []


def test_a_figure_that_should_be_high_is_drawn_upside_down() -> None:
  rates = tuning.grid(('learning_rate=1e-4 1e-3 1e-2 1e-1',))
  losses = (3.0, 2.0, 2.5, math.inf)
  high = Metric('x', 'any', lower_is_better=False)
  down = {'qkv': _tuned(*losses)}
  costs = [high.cost(loss) for loss in losses]
  up = {
    'qkv': tuning.choose_best_point(list(zip(rates, costs, strict=True)), high)
  }
  assert up['qkv'].point == down['qkv'].point
  table = _report().table
  (plain,) = sensitivity.sensitivities(down, table)
  table = dataclasses.replace(table, lower_is_better=False)
  (turned,) = sensitivity.sensitivities(up, table)
  middle = plain.frame.top + plain.frame.bottom
  assert plain.notes == turned.notes
  for one, other in zip(
    plain.traces[0].points, turned.traces[0].points, strict=True
  ):
    assert other == pytest.approx((one[0], middle - one[1]))
  assert [tick.label for tick in turned.frame.y_ticks][:1] == ['-3']


def test_weights_survive_the_encoding() -> None:
  weights_LNTS = _maps()
  signed_LNTS = np.where(weights_LNTS < 0.1, -3 * weights_LNTS, weights_LNTS)
  for maps_LNTS in (weights_LNTS, signed_LNTS, 4 * signed_LNTS):
    page = report.render(
      dataclasses.replace(
        _report(),
        attention={'qkv': _to_itself('abcde', maps_LNTS)},
      )
    )
    (maps,) = _embedded(page)
    bytes_LNTS = np.frombuffer(
      base64.b64decode(maps['data']), np.uint8
    ).reshape(maps['shape'])
    root_LNTS = (bytes_LNTS.astype(float) - maps['zero']) / maps['span']
    read_LNTS = maps['scale'] * np.sign(root_LNTS) * root_LNTS**2
    # Half a step of the root r moves r^2 by at most r / span.
    bound_LNTS = (
      1.01
      * maps['scale']
      * (np.abs(root_LNTS) / maps['span'] + (0.5 / maps['span']) ** 2)
    )
    assert np.all(np.abs(read_LNTS - maps_LNTS) <= bound_LNTS)


def test_attention_to_another_text_has_its_own_columns() -> None:
  cross_LNTS = _maps()[..., :3]
  kinds = {
    'decoder cross-attention': report.AttentionMaps(
      'abcde', ['the ', _ATTACK, ''], cross_LNTS
    ),
    **_to_itself('abcde', _maps()),
  }
  page = report.render(
    dataclasses.replace(_report(), attention={'qkv': kinds, 'raw': kinds})
  )
  first, second, *others = _embedded(page)
  assert [m['row'] for m in (first, second, *others)] == ['qkv'] * 2 + [
    'raw'
  ] * 2
  assert first['kind'] == 'decoder cross-attention'
  assert second['kind'] == 'self-attention'
  assert first['queries'] == list('abcde')
  assert first['keys'] == ['the␣', _ATTACK, '∅']
  assert first['shape'] == [2, 3, 5, 3]
  # Without a script, the base shows each kind in its own proportions.
  sizes = [
    (own['width'], own['height'])
    for tag, own in _Page(page).tags
    if tag == 'img'
  ]
  assert sizes == [('46', '76')] * 6 + [('76', '76')] * 6
  assert 'qkv: decoder cross-attention' in _Page(page).text


def test_weights_that_are_not_finite_are_noted() -> None:
  weights_LNTS = _maps()
  weights_LNTS[0, 0, 0] = np.nan
  (maps,) = _embedded(
    report.render(
      dataclasses.replace(
        _report(),
        attention={'qkv': _to_itself('abcde', weights_LNTS)},
      )
    )
  )
  assert maps['note'] == 'Weights that are not finite are shown as 0.'
  assert not any(base64.b64decode(maps['data'])[:5])


@pytest.mark.parametrize(
  ('rows', 'layers', 'heads', 'tokens'), [(8, 2, 4, 64), (8, 12, 12, 200)]
)
def test_a_large_report_stays_small(
  rows: int, layers: int, heads: int, tokens: int
) -> None:
  names = [f'row{i}' for i in range(rows)]
  curve = [(step, 2.0 + 1 / (step + 1)) for step in range(2000)]
  curves = {row: {0: curve, 1: curve} for row in names}
  maps = _to_itself(['x'] * tokens, _maps(tokens, layers, heads))
  page = report.render(
    dataclasses.replace(
      _report(),
      table=_table({row: [1.0, 2.0] for row in names}),
      curves=curves,
      train_curves=curves,
      attention=dict.fromkeys(names, maps),
    )
  )
  assert len(page.encode()) < 3e6
  cut = _embedded(page)[0]
  if tokens == 64:
    assert cut['shape'] == [layers, heads, 64, 64]
  else:
    assert cut['note'] == f'The first {cut["shape"][3]} of 200 tokens.'


def test_mean_is_over_seeds_that_ended_well() -> None:
  table = _table({'qkv': [1.0, 1.0, None]})
  chart = charts.chart(
    {
      'qkv': {0: [(0, 1.0), (10, 2.0)], 1: [(0, 3.0), (10, 4.0)], 2: [(0, 9.0)]}
    },
    table,
  )
  assert chart is not None
  (line,) = chart.lines
  assert len(line.alone) == 1
  assert line.band
  places = [float(y) for y in re.findall(r',([-\d.]+)', line.mean)]
  edges = [float(y) for y in re.findall(r',([-\d.]+)', line.band)]
  # Down is less in SVG: the band has 3, 4 above and 2, 1 below the mean 2, 3.
  assert edges[0] < places[0] < edges[3]
  assert edges[1] < places[1] < edges[2]
  assert places[0] == pytest.approx((edges[0] + edges[3]) / 2, abs=0.1)
  assert places[0] == pytest.approx(edges[2], abs=0.1)


def test_long_curves_are_shortened() -> None:
  curve = [(step, float(step % 7)) for step in range(10_000)]
  chart = charts.chart({'qkv': {0: curve}}, _table({'qkv': [1.0]}))
  assert chart is not None
  assert chart.lines[0].mean.count(',') <= 400


def test_labels_do_not_overlap() -> None:
  names = [f'row{i}' for i in range(12)]
  chart = charts.chart(
    {row: {0: [(0, 1.0), (1, 1.0)]} for row in names},
    _table({row: [1.0] for row in names}),
  )
  assert chart is not None
  heights = sorted(line.label_y for line in chart.lines)
  assert np.all(np.diff(heights) >= 14)
  assert chart.frame.top <= heights[0]
  assert heights[-1] <= chart.frame.bottom


def test_forest_cuts_what_leaves_its_axis() -> None:
  table = _table({'qkv': [0.0, 0.0], 'a': [0.9, 1.1], 'b': [-5.0, 6.0]})
  found = forest.forest(table)
  assert found is not None
  assert found.strips['b'].cut_low
  assert found.strips['b'].cut_high
  strip = found.strips['a']
  assert strip.low is not None
  assert strip.high is not None
  assert strip.low < strip.at < strip.high
  assert found.zero < strip.at
  for strip in found.strips.values():
    assert (strip.low or 0) >= 0
    assert (strip.high or 0) <= found.width


def test_forest_shows_the_margin() -> None:
  table = _table({'qkv': [10.0, 12.0], 'a': [10.5, 12.6], 'b': [9.0, 11.5]})
  found = forest.forest(table)
  assert found is not None
  low, high = found.margin
  # 1 % of the base's mean 11, on either side of 0; a differs by five of it.
  assert high - found.zero == pytest.approx(found.zero - low, rel=0.02)
  assert (found.strips['a'].at - found.zero) / (
    high - found.zero
  ) == pytest.approx(0.55 / 0.11, rel=0.02)
  narrow = forest.forest(_table({'qkv': [10.0, 12.0], 'a': [10.01, 12.01]}))
  assert narrow is not None
  assert 0 <= narrow.margin[0] < narrow.margin[1] <= narrow.width


def test_rows_keep_apart_by_stroke() -> None:
  names = [f'row{i}' for i in range(25)]
  strokes = charts.strokes(_table({row: [1.0] for row in names}))
  assert len(set(strokes.values())) == 25


@pytest.mark.parametrize(
  ('low', 'high', 'log', 'labels'),
  [
    (0.0, 1.0, False, ['0', '0.2', '0.4', '0.6', '0.8', '1']),
    (0, 40_000, False, ['0', '10k', '20k', '30k', '40k']),
    (0.01, 10.0, True, ['0.01', '0.03', '0.1', '0.3', '1', '3', '10']),
  ],
)
def test_ticks_are_round(
  low: float, high: float, log: bool, labels: list[str]
) -> None:
  ticks = axes.Scale(low, high, 0, 100, log).ticks(5)
  assert [tick.label for tick in ticks] == labels
  assert (ticks[0].at, ticks[-1].at) == (0, 100)
