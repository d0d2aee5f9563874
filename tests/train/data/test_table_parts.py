"""Tables in two parts: which rows are judged, what is said, what is refused."""

import collections
import csv
import pathlib
import random
from collections.abc import Mapping, Sequence

import pytest

from model.core.field import FieldError
from train.core.errors import DataError
from train.data.splits.splits import (
  AnySplit,
  AutoSplit,
  EachSplit,
  FileSplit,
  HashSplit,
  TailSplit,
)
from train.data.tables.base import Jsonl, Rows, Table
from train.data.tables.delimited import CsvTable, Delimited, Tsv
from train.data.tables.multi30k import Multi30k
from train.data.tables.sources import AnyTable
from train.tasks.texts.classification import Classification
from train.tasks.texts.text import Text
from train.tasks.texts.translation import Translation

LABELLED, PAIR = ('text', 'label'), ('source', 'target')
Row = tuple[str, ...]


def _rows(sizes: Mapping[str, int]) -> list[Row]:
  """Returns so many rows of each label, one label after another."""
  return [
    (f'{label} text {n}', label)
    for label, size in sizes.items()
    for n in range(size)
  ]


def _judged(
  rows: Sequence[Row], split: AnySplit | None = None, labelled: bool = True
) -> list[bool]:
  keys, labels = zip(*rows, strict=True)
  split = split or AutoSplit()
  return list(split.judged(keys, labels if labelled else None).rows)


def _held(
  rows: Sequence[Row], split: AnySplit | None = None, labelled: bool = True
) -> set[Row]:
  which = _judged(rows, split, labelled)
  return {row for row, judged in zip(rows, which, strict=True) if judged}


def _file(path: pathlib.Path, rows: Sequence[Row], name: str = 'a.tsv') -> str:
  (path / name).write_text(''.join('\t'.join(row) + '\n' for row in rows))
  return str(path / name)


def _said(table: AnyTable, split: AnySplit | None = None) -> str:
  return Classification(table, split=split or AutoSplit()).load().description


# Which rows. ------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(5))
def test_each_label_has_its_share_whatever_the_order(seed: int) -> None:
  rows = _rows({'a': 1, 'b': 2, 'c': 3, 'd': 14, 'e': 15, 'f': 104, 'g': 300})
  held = _held(rows, HashSplit(seed))
  found = collections.Counter(label for _, label in held)
  assert found == {'b': 1, 'c': 1, 'd': 1, 'e': 2, 'f': 10, 'g': 30}
  draw = random.Random(seed)
  for _ in range(3):
    draw.shuffle(rows)
    assert _held(rows, HashSplit(seed)) == held
  assert _held(rows, HashSplit(seed + 1)) != held


def test_a_row_that_is_added_moves_one_other_at_most() -> None:
  """Else every table that grows would judge on other rows."""
  rows = _rows({'a': 200, 'b': 30})
  for count in range(100, 200):
    fewer = _held([*rows[:count], *rows[200:]])
    more = _held([*rows[: count + 1], *rows[200:]])
    assert len(fewer - more) <= 1
    assert {row for row in fewer ^ more if row[1] == 'b'} == set()


def test_pairs_move_no_other() -> None:
  rows = [(f's {n}', f't {n}') for n in range(500)]
  held = _held(rows, None, False)
  assert 25 < len(held) < 80
  for some in (rows[:250], rows[::-1], rows[::7]):
    assert _held(some, None, False) == held & {*some}
  for size in (2, 3, 5):  # none would be judged by chance
    assert 1 <= len(_held(rows[:size], None, False)) < size


def test_rows_of_one_text_are_in_one_part(tmp_path: pathlib.Path) -> None:
  """But for white space, and whatever their labels."""
  draw = random.Random(0)
  rows = [(f'text {n % 40}', draw.choice('ab')) for n in range(200)]
  rows += [(f' text  {n} ', draw.choice('ab')) for n in range(40)]
  data = Classification(Tsv(train=_file(tmp_path, rows))).load()
  assert data.held[0]
  held = {' '.join(text.split()) for text in data.held[0]}
  assert len(data.held[0]) == 6 * len(held)
  said = f', {len(held)} different texts among its {len(data.held[0])} rows, '
  assert said in data.description
  assert 'are trained on' not in data.description
  assert ' texts have several labels' in data.description


def test_what_is_judged_is_trained_on() -> None:
  """No label is in the validation part alone."""
  draw = random.Random(0)
  for _ in range(300):
    rows = [
      (f't{draw.randrange(9)}', draw.choice('abcd'))
      for _ in range(draw.randrange(2, 40))
    ]
    which = _judged(rows)
    known = {row[1] for row, held in zip(rows, which, strict=True) if not held}
    assert {row[1] for row in _held(rows)} <= known
    texts = {row[0] for row in _held(rows)}
    assert all(
      held == (row[0] in texts) for row, held in zip(rows, which, strict=True)
    )


def test_a_frequent_text_does_not_take_the_share() -> None:
  rows = [('often', 'a')] * 50 + _rows({'a': 50, 'b': 50})
  for seed in range(9):
    held = _held(rows, HashSplit(seed))
    assert ('often', 'a') not in held
    assert len(held) == 10 + 5
  two = [('one', 'a')] * 5 + [('other', 'a')] * 4
  assert _held(two) == {('other', 'a')}


# What is said. ----------------------------------------------------------------


def test_a_sorted_table_is_judged_on_all_its_labels(
  tmp_path: pathlib.Path,
) -> None:
  path = _file(tmp_path, _rows({'pos': 60, 'neg': 30}))
  assert _said(Tsv(train=path)).startswith(
    f'{path}: 81 rows to train on (neg 27, pos 54), validation: 9 rows (neg 3, '
    'pos 6), a tenth of each label by a hash of the text (--task.split=hash), '
  )
  with pytest.raises(
    DataError, match=r"all rows to evaluate on have the label 'neg', so always"
  ):
    _said(Tsv(train=path), TailSplit())
  many = _file(
    tmp_path, _rows({'a': 9, 'b': 30, 'c': 20, 'd': 20, 'e': 20}), 'b.tsv'
  )
  assert 'validation: 10 rows (5 labels of 1 to 3 rows), ' in _said(
    Tsv(train=many)
  )


def test_rows_of_their_own_are_kept(tmp_path: pathlib.Path) -> None:
  path = _file(tmp_path, _rows({'a': 9, 'b': 9}))
  other = _file(tmp_path, [('x', 'a'), ('y', 'b'), ('a text 3', 'a')], 'b.tsv')
  said = 'validation: 3 rows (a 2, b 1), all of '
  seen = ', 1 of its 3 rows (33.33%) are trained on, '
  own = _said(Tsv(train=path, validation=other))
  assert said + other in own
  assert seen in own
  # The same by the split, for all tables of files.
  assert _said(Tsv(train=path), FileSplit(other)) == own
  both = Tsv(train=path, validation=other)
  for table, split, match in (
    (
      both,
      HashSplit(),
      r'split=hash: has no effect on .*a\.tsv, which has a val',
    ),
    (both, FileSplit(other), r'split\.path=.*are the same: drop one'),
    (
      Tsv(train=path),
      FileSplit(),
      r'split\.path=none: must be given: FILE of rows',
    ),
    (
      Tsv(train=path),
      EachSplit(),
      r'split=each: cuts documents, .*split=hash, or tai',
    ),
  ):
    with pytest.raises(FieldError, match=match):
      _said(table, split)


def test_documents_of_another_table_are_judged(tmp_path: pathlib.Path) -> None:
  """Not the text of its file, braces and all."""
  train, held = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
  train.write_text('{"text": "abcd"}\n' * 9)
  held.write_text('{"text": "dcba"}\n{"text": "aabb"}\n')
  task = Text(data=Jsonl(train=str(train)), split=FileSplit(str(held)))
  data = task.load()
  judged = data.arrays['validation']
  assert data.vocabulary.decode(judged) == 'dcbaaabb'
  assert f'validation: 8 characters, all of {held}, ' in data.description
  # And of other data all.
  data = task.load_all(data.vocabulary)
  assert data.vocabulary.decode(data.arrays['validation']) == 'abcd' * 9


def test_a_named_table_takes_no_other_file(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def part(self: Table, part: str, columns: Sequence[str]) -> Rows:
    return Rows(part, ([part, 'x'], ['y', 'z']))

  monkeypatch.setattr(Multi30k, 'part', part)
  said = Translation(Multi30k()).load().description
  assert 'validation: 2 rows, all of validation, ' in said
  with pytest.raises(
    FieldError, match=r'split=file: has no effect on --task\.data=multi30k'
  ):
    Translation(Multi30k(), split=FileSplit('x')).load()


LOOKS = {
  'white space': (
    [('x y', 'pos '), ('y z', ' pos')],
    ["white space of labels cut (' pos', 'pos '): 2 are left of 4"],
  ),
  'case': (
    [('x y', 'Pos')],
    [
      "labels that differ in case or form alone: 'Pos', 'pos'",
      "1 labels trained on, not judged: 'Pos'",
    ],
  ),
  'form': (
    [('x y', 'ne\u200bg')],
    ["labels that differ in case or form alone: 'neg', 'ne\\u200bg'"],
  ),
  'two labels': ([('pos text 3', 'neg')], ['1 texts have several labels']),
}


@pytest.mark.parametrize('case', LOOKS)
def test_labels_that_mislead_are_said(
  case: str, tmp_path: pathlib.Path
) -> None:
  more, parts = LOOKS[case]
  plain = _said(Tsv(train=_file(tmp_path, _rows({'pos': 20, 'neg': 20}))))
  found = _said(
    Tsv(train=_file(tmp_path, [*_rows({'pos': 20, 'neg': 20}), *more]))
  )
  for part in parts:
    assert f', {part}, ' in found
    assert part not in plain


def test_all_of_another_table_is_judged(tmp_path: pathlib.Path) -> None:
  """Of a trained trial nothing else is new; one label may be all there is."""
  task = Classification(Tsv(train=_file(tmp_path, _rows({'a': 9, 'b': 9}))))
  known = task.load().vocabulary
  new = _file(tmp_path, [('x', 'a'), ('a text 1', 'a ')], 'b.tsv')
  data = Classification(Tsv(train=new)).load_all(known)
  assert f'validation: 2 rows (a 2), all of {new}' in data.description
  assert 'train_text' not in data.arrays
  assert task.problem(data, 16) is None
  assert task.notes(data, 2).endswith(': 1 rows to evaluate on')


def test_sources_that_are_trained_on_are_said(tmp_path: pathlib.Path) -> None:
  path = _file(tmp_path, [(f's {n}', f't {n}') for n in range(20)])
  held = [('s 1', 't 1'), ('s  2', 'other'), ('new', 't 3')]
  other = _file(tmp_path, held, 'b.tsv')
  said = Translation(Tsv(train=path, validation=other)).load().description
  assert (
    ', 1 of its 3 rows (33.33%) are trained on, 1 rows with a source ' in said
  )


# What is refused. -------------------------------------------------------------


@pytest.mark.parametrize(
  ('parts', 'match'),
  [
    (
      {'a': _rows({'a': 9})},
      r"a\.tsv: all rows have the label 'a': .* give rows",
    ),
    (
      {'a': [(f'text {n}', f'l{n}') for n in range(9)]},
      r'no label has two different texts \(9 labels of 9 rows\)',
    ),
    (
      {'a': _rows({'a': 9, 'b': 1})},
      r"all rows to evaluate on have the label 'a', so .* in at least two te",
    ),
    (
      {'a': _rows({'a': 9, 'b': 9}), 'b': [('x', 'a'), ('y', 'a')]},
      r"b\.tsv: all rows to evaluate on have the label 'a', so always saying",
    ),
    (
      {'a': _rows({'a': 9}), 'b': [('x', 'a'), ('y', 'b')]},
      r"a\.tsv: all rows to train on have the label 'a', so always saying it",
    ),
    (
      {
        'a': _rows({'a': 9, 'b': 9}),
        'b': [('a text  1 ', 'a'), ('b text 2', 'a'), ('b text 3', 'b')],
      },
      r'b\.tsv: all 3 rows of its validation part are in the training part, ',
    ),
  ],
)
def test_what_cannot_judge_is_refused(
  parts: Mapping[str, Sequence[Row]], match: str, tmp_path: pathlib.Path
) -> None:
  paths = {name: _file(tmp_path, parts[name], f'{name}.tsv') for name in parts}
  with pytest.raises(DataError, match=match) as refused:
    _said(Tsv(train=paths['a'], validation=paths.get('b')))
  assert '\n' not in str(refused.value)


def test_labels_of_rows_that_fit_are_several(tmp_path: pathlib.Path) -> None:
  """What is too long is not judged: then one label may be left."""
  rows = [(f'a {n}', 'short') for n in range(20)]
  rows += [(f'a b c d {n}', 'long') for n in range(20)]
  task = Classification(Tsv(train=_file(tmp_path, rows)), buckets=1)
  data = task.load()
  assert task.problem(data, 6) is None
  problem = task.problem(data, 5)
  assert problem is not None
  assert "train part that fit --seq_len=5 have the label 'short'" in problem


def test_pairs_of_one_source_are_refused(tmp_path: pathlib.Path) -> None:
  path = _file(tmp_path, [('go', f'geh {n}') for n in range(9)])
  with pytest.raises(DataError, match=r'all 9 rows have one text.*split=tail'):
    Translation(Tsv(train=path)).load()
  Translation(Tsv(train=path), split=TailSplit()).load()


# The first line. --------------------------------------------------------------

BODY = [f'text {n}\t{"ab"[n % 2]}' for n in range(20)]
BACK = ['\t'.join(line.split('\t')[::-1]) for line in BODY]
TAKEN = 'taken for names of columns, not for a row'


def _labels(lines: Sequence[str], path: pathlib.Path) -> tuple[set[str], str]:
  (path / 'a.tsv').write_text('\n'.join(lines))
  data = Classification(Tsv(train=str(path / 'a.tsv'))).load()
  return {*data.vocabulary.labels}, data.description


@pytest.mark.parametrize(
  'lines',
  [
    ['text\tlabel', *BODY],
    ['Sentence\tLabel ', *BODY],
    ['label\ttext', *BACK],
    ['class\treview', *BACK],
    ['phrase\tmood', *BODY],
    ['id\tlabel\ttext', *[f'{n}\t{line}' for n, line in enumerate(BACK)]],
    ['text\tlabel', *BODY[:9], 'text\tlabel', *BODY[9:]],
  ],
)
def test_names_of_columns_are_no_class(
  lines: Sequence[str], tmp_path: pathlib.Path
) -> None:
  labels, said = _labels(lines, tmp_path)
  assert labels == {'a', 'b'}
  assert TAKEN in said
  assert '18 rows to train on (a 9, b 9), ' in said
  assert ('1 lines like the first' in said) == (len(lines) == 22)


@pytest.mark.parametrize(
  ('line', 'label'),
  [('hello\ta', None), ('a first row\tc', 'c'), ('text\ta', None)],
)
def test_a_row_is_no_line_of_names(
  line: str, label: str | None, tmp_path: pathlib.Path
) -> None:
  labels, said = _labels([line, *BODY], tmp_path)
  assert labels == {'a', 'b'} | ({label} if label else set())
  assert TAKEN not in said
  assert ("1 labels trained on, not judged: 'c'" in said) == bool(label)
  # Words and their kinds, of which the first is there once.
  words = [f'word{n}\t{"ab"[n % 2]}' for n in range(20)]
  assert _labels(['hello\tc', *words], tmp_path)[0] == {'a', 'b', 'c'}
  # What is often a name, and here a label.
  lines = ['question\ttopic', *BODY, 'text x\ttopic']
  labels, said = _labels(lines, tmp_path)
  assert labels == {'a', 'b', 'topic'}
  assert TAKEN not in said


def test_names_may_be_numbers_of_other_rows(tmp_path: pathlib.Path) -> None:
  lines = [f'word{n}\t{n % 2}' for n in range(20)]
  assert _labels(['phrase\tmood', *lines], tmp_path)[0] == {'0', '1'}


def test_names_are_asked_for(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.csv'
  path.write_text('id,de,en\n' + '1,eins,one\n' * 9)
  table = CsvTable(train=str(path), keys='en,de')
  found = table.part('train', PAIR)
  assert found is not None
  assert found.columns == (['one'] * 9, ['eins'] * 9)
  assert not found.notes
  for keys, match in (
    ('en', r'keys=en: must name a column for each of source, target'),
    ('en,fr', r'has no column fr: its first line names id, de, en'),
  ):
    with pytest.raises(DataError, match=match):
      CsvTable(train=str(path), keys=keys).part('train', PAIR)
  with pytest.raises(FieldError, match=r'--keys=en: are names in a first line'):
    CsvTable(train=str(path), keys='en', header=False)
  # As a row, if that is what is said.
  path.write_text('text,label\n' + ''.join(f'x {n},a\n' for n in range(20)))
  found = CsvTable(train=str(path), header=False).part('train', LABELLED)
  assert found is not None
  assert found.columns[1][0] == 'label'
  texts = Text(data=CsvTable(train=str(path)), split=TailSplit()).load()
  assert TAKEN in texts.description


# Quotes. ----------------------------------------------------------------------


def _read(table: Delimited) -> tuple[list[Row], str]:
  found = table.part('train', LABELLED)
  assert found is not None
  return list(zip(*found.columns, strict=True)), ', '.join(found.notes)


def test_csv_is_read_as_it_is_written(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.csv'
  path.write_bytes(
    b'\xef\xbb\xbf"a, ""b""\r\nc",pos\r\n\r\n d , "neg"\r\n5" disk,"x"\r\n'
  )
  rows, notes = _read(CsvTable(train=str(path)))
  want = [('a, "b"\nc', 'pos'), ('', ''), ('d ', 'neg'), ('5" disk', 'x')]
  assert rows == want
  assert notes == '1 fields with line breaks'
  long = 'x' * 200_000  # Python's own limit is 131,072
  path.write_text(f'"{long}",a')
  assert _read(CsvTable(train=str(path)))[0] == [(long, 'a')]


@pytest.mark.parametrize('excel', [True, False])
def test_what_other_programs_write_is_read(
  excel: bool, tmp_path: pathlib.Path
) -> None:
  draw = random.Random(0)
  path = tmp_path / 'a.csv'
  for _ in range(30):
    rows = [
      tuple('x' + ''.join(draw.choices('a,"\n\t\r\u2028 ', k=4)) for _ in 'ab')
      for _ in range(draw.randrange(1, 6))
    ]
    rows = [tuple(x.replace('\r\n', '') for x in row) for row in rows]
    with path.open('w', newline='') as f:
      how = csv.excel if excel else csv.unix_dialect
      csv.writer(f, how).writerows([('text', 'label'), *rows])
    assert _read(CsvTable(train=str(path)))[0] == rows
    with path.open('w', newline='') as f:
      csv.writer(f, how, delimiter='\t').writerows(rows)
    assert _read(Tsv(train=str(path), quotes=True, header=False))[0] == rows


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('a,x\n"b,y\nc,z\n', r'a\.csv: line 2 to 3 cannot be read as csv \(unexp'),
    ('a,x\n"b"c,y\n', r"line 2 cannot be read as csv \(',' expected after "),
    ('"a\nb",x\nc,y,z\n', r'line 3 has 3 columns, not 2 .*: put a comma betw'),
    ('a\tx\nb\ty\n', r'line 1 has 1 columns, .* or try --task\.data=tsv$'),
    ('a;x\nb;y\n', r"line 1 has 1 columns, not 2 \(text, label\): 'a;x': put "),
  ],
)
def test_what_is_no_csv_is_refused(
  text: str, match: str, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'a.csv'
  path.write_text(text)
  with pytest.raises(DataError, match=match) as refused:
    _read(CsvTable(train=str(path)))
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
  ('text', 'quoted'),
  [
    ('"a ""b"" c"\tx\nd\t"y"\n', [('a "b" c', 'x'), ('d', 'y')]),
    ('"a\nb"\tx\nd\ty\n', [('a\nb', 'x'), ('d', 'y')]),
    ('"Go," he said\tx\nd\ty\n', None),
    ('"Go\tx\nand run"\ty\n', None),
    ('"Go\tx\nd\ty\n', None),
    ('a "b\tx\nd\ty\n', None),
  ],
)
def test_quotes_between_tabs_are_found_out(
  text: str, quoted: list[Row] | None, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'a.tsv'
  path.write_text(text)
  plain = [tuple(line.split('\t')) for line in text.splitlines()]
  rows, notes = _read(Tsv(train=str(path)))
  assert rows == (quoted or plain)
  if quoted:
    assert 'quotes around fields left out (--task.data.quotes=false' in notes
    assert _read(Tsv(train=str(path), quotes=True)) == (quoted, '')
  else:
    assert ('quotes at the beginning of fields are text' in notes) == (
      text[0] == '"'
    )
    assert _read(Tsv(train=str(path), quotes=False)) == (plain, '')
