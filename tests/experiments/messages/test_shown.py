"""What others wrote is shown, never obeyed: by terminal, table and report."""

import csv
import io
import pathlib

import pytest
import rich.console

from experiments.messages import formats
from experiments.messages.escapes import (
  command_line,
  escape_name,
  escape_text,
  shorten,
)
from experiments.messages.terminal import Terminal
from experiments.report import charts
from experiments.report import render as report
from experiments.table import table as tables
from experiments.table import table_files, table_terminal

# ESC, BEL, a C1 control, right to left, zero width, line breaks, a lone half.
EVIL = 'a\x1b[2J\a\x9b\u202e\u2066\u200b\u2028\r\n\udc80\U000e0041z'
CALM = r'a\x1b[2J\x07\x9b\u202e\u2066\u200b\u2028\r\n\udc80\U000e0041z'


def hidden(text: str) -> set[str]:
  """Returns what a terminal obeys or cannot show, but lines and tabs."""
  return {c for c in text if escape_name(c) != c} - {'\n', '\t'}


def test_what_cannot_be_seen_is_escaped() -> None:
  assert escape_name(EVIL) == CALM
  assert escape_name(CALM) == CALM
  assert escape_name('naïve 日本 👍 –') == 'naïve 日本 👍 –'
  assert escape_text('a\n\tb\x1b\u202e') == 'a\n\tb\\x1b\\u202e'
  family = '\U0001f468\u200d\U0001f469'
  assert escape_text(family) == family
  assert len(shorten('x' * 5000 + ' y')) < 500


def test_a_command_can_be_given_to_a_shell() -> None:
  assert command_line(['a b', "it's"]) == """'a b' 'it'"'"'s'"""
  assert command_line(["--x='\\\x1b"]) == r"$'--x=\'\\\x1b'"


def evil_table() -> tables.AblationTable:
  """Returns a table whose row, base and notes are made to deceive."""
  records = [
    {'row': EVIL, 'seed': n, 'status': 'ok', 'metrics': {'val_loss': 2.0 + n}}
    for n in range(2)
  ]
  failed = {'row': '=1+1', 'seed': 0, 'status': 'failed', 'error': EVIL}
  about = {'trial': 'x', 'clock': {'seconds': 1.0}, 'config': {}}
  every = [about | record for record in [*records, failed]]
  return tables.make_table(every, [EVIL, '=1+1'], EVIL)


def test_tables_show_escapes(tmp_path: pathlib.Path) -> None:
  table_files.write(evil_table(), tmp_path)
  console = rich.console.Console(width=200, file=io.StringIO())
  console.print(table_terminal.render(evil_table()))
  assert isinstance(console.file, io.StringIO)
  found = {
    path.name: path.read_text()
    for path in tmp_path.iterdir()
    if path.suffix != '.json'
  } | {'terminal': console.file.getvalue()}
  assert len(found) == 4
  for name, text in found.items():
    assert not hidden(text), name
    assert 'u202e' in text, name


def test_the_live_lines_show_escapes_and_no_markup(
  capsys: pytest.CaptureFixture[str],
) -> None:
  with Terminal(1, 1) as terminal:
    terminal.begin('[/b]')
    terminal.say(EVIL)
    terminal.warn(EVIL)
  out, err = capsys.readouterr()
  assert out.rstrip('\n') == CALM  # rich 14 ends its lines with an empty one
  assert err == f'warning: {CALM}\n'


def test_a_report_shows_escapes() -> None:
  page = report.render(
    report.Report(
      title=EVIL,
      claim=EVIL,
      citation=EVIL,
      command=EVIL,
      definitions=EVIL,
      table=evil_table(),
      curves={EVIL: {0: [(0, 1.0), (1, 2.0)]}},
      plotted='val_loss',
      train_curves={},
      tuned={},
      retired={EVIL: EVIL},
      attention={},
      samples={EVIL: report.Sample(EVIL, EVIL, 'one\n\ttwo\x1b')},
      environment={EVIL: EVIL},
      row_commands={EVIL: EVIL},
      row_changes={EVIL: EVIL + 'x'},
    )
  )
  assert not hidden(page)
  assert 'one\n\ttwo\\x1b' in page
  assert charts.short(EVIL).startswith(r'a\x1b')


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('[a](http://b)', r'\[a\](http\://b)'),
    ('![a](x)', r'!\[a\](x)'),
    ('<b> &lt; a & b', '&lt;b> &amp;lt; a & b'),
    ('`x` *y* _z_ a_b ~c~', r'\`x\` \*y\* \_z\_ a_b \~c\~'),
    ('www.a.b me@c.d', r'www\.a.b me\@c.d'),
    ('# a', r'\# a'),
    ('> a', r'\> a'),
    ('- a', r'\- a'),
    ('1. a', r'1\. a'),
    ('-1.5 +2', '-1.5 +2'),
  ],
)
def test_markdown_has_no_markup(text: str, want: str) -> None:
  assert formats.escape_markdown(text) == want


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('a|b', r'a\textbar{}b'),
    ('"a"', r'{\char34}a{\char34}'),
    ('a\\b', r'a\textbackslash{}b'),
    ('[1]*', '{[}1]{*}'),
    ('a--b –', 'a-{}-b --'),
    ('`a', r'\textasciigrave{}a'),
  ],
)
def test_tex_has_no_macros(text: str, want: str) -> None:
  assert formats.escape_tex(text) == want


@pytest.mark.parametrize('name', ['=1+1', '+1', '-1', '@x', ' =1', '\t=1'])
def test_csv_has_no_formulas(name: str, tmp_path: pathlib.Path) -> None:
  about = {'trial': 'x', 'seed': 0, 'status': 'ok', 'config': {}}
  record = about | {'row': name, 'metrics': {'val_loss': -1.0}}
  record['clock'] = {'seconds': 1.0}
  table_files.write(tables.make_table([record], [name], name), tmp_path)
  with (tmp_path / 'table.csv').open(newline='') as file:
    (line,) = csv.DictReader(file)
  assert line['row'] == f"'{name}" or line['row'][0] not in '=+-@ \t'
  assert float(line['mean']) == -1.0
