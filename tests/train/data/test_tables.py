"""Tables of texts: what is read, what is left out, and what is refused."""

import dataclasses
import gzip
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from model.core.field import FieldError
from train.core.errors import DataError
from train.data.documents import iterate_blocks
from train.data.fetch import RemoteFile, fetch_text
from train.data.splits import corpus
from train.data.splits.splits import AnySplit, AutoSplit, TailSplit
from train.data.splits.table_parts import split_table
from train.data.tables import multi30k
from train.data.tables.base import Jsonl, ParallelText, Rows, Table, split_lines
from train.data.tables.delimited import Tsv
from train.data.tables.hub import HuggingFace, Tfds
from train.data.tables.multi30k import Multi30k, Multi30kBpe
from train.tasks.texts.text import Text

PAIR = ('source', 'target')


def _divided(
  table: Table, split: AnySplit | None = None
) -> tuple[Rows, Rows, str]:
  """Returns the two parts of a table of pairs, and what is said of them."""
  found = split_table(split or AutoSplit(), table, PAIR, 2)
  assert found.train is not None
  return found.train, found.held, ', '.join(found.notes)


def _write(path: pathlib.Path, text: str | bytes) -> str:
  path.parent.mkdir(parents=True, exist_ok=True)
  data = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def _rows(table: Table, part: Any = 'train') -> list[tuple[str, ...]]:
  found = table.part(part, PAIR)
  assert found is not None
  return list(zip(*found.columns, strict=True))


# What is read. ----------------------------------------------------------------


def test_parallel_files_are_read_line_by_line(tmp_path: pathlib.Path) -> None:
  # A form feed and a line separator end no line; CR LF ends one.
  _write(tmp_path / 'a.en', 'one\x0c x\r\ntwo\u2028y\nthree')
  _write(tmp_path / 'a.de.gz', 'eins\nzwei\ndrei\n')
  table = ParallelText(train=str(tmp_path / 'a'))
  want = [('one\x0c x', 'eins'), ('two\u2028y', 'zwei'), ('three', 'drei')]
  assert _rows(table) == want
  other = ParallelText(train=str(tmp_path / 'a'), suffixes='de,en')
  assert _rows(other) == [pair[::-1] for pair in want]
  assert table.part('validation', PAIR) is None


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('', []),
    ('a', ['a']),
    ('a\n', ['a']),
    ('a\n\nb\n', ['a', '', 'b']),
    ('\n', ['']),
    ('a\r\nb\r\n', ['a', 'b']),
  ],
)
def test_lines(text: str, want: list[str]) -> None:
  assert split_lines(text) == want


def test_tab_separated_columns_are_in_the_order_of_the_task(
  tmp_path: pathlib.Path,
) -> None:
  path = _write(tmp_path / 'a.tsv', 'one\teins\ntwo "x\tzwei\n')
  assert _rows(Tsv(train=path)) == [('one', 'eins'), ('two "x', 'zwei')]
  path = _write(tmp_path / 'b.tsv', 'target\tid\tsource\nEins\t7\tOne\n')
  assert _rows(Tsv(train=path, header=True)) == [('One', 'Eins')]


def test_json_lines_are_read_by_key(tmp_path: pathlib.Path) -> None:
  rows = [
    {'source': 'one\n', 'target': 'eins', 'x': None},
    {'source': 'two', 'target': 2},
  ]
  text = '\n\n'.join(map(json.dumps, rows))
  table = Jsonl(train=_write(tmp_path / 'a.jsonl', text))
  # An empty line is a row without a text, which is counted.
  assert _rows(table) == [('one\n', 'eins'), ('', ''), ('two', '2')]
  nested = [{'translation': {'en': 'one', 'de': 'eins'}}]
  path = _write(tmp_path / 'b.jsonl', json.dumps(nested[0]))
  table = Jsonl(train=path, keys='translation.en,translation.de')
  assert _rows(table) == [('one', 'eins')]


def test_parts_are_divided_and_empty_rows_counted(
  tmp_path: pathlib.Path,
) -> None:
  body = [f's{n}\tt{n}' for n in range(20)]
  body[3:3] = ['\tno source', 'no target\t  ']
  path = _write(tmp_path / 'a.tsv', '\n'.join(body))
  train, held, notes = _divided(Tsv(train=path), TailSplit())
  assert train.columns[0] == [f's{n}' for n in range(18)]
  assert held.columns == (['s18', 's19'], ['t18', 't19'])
  assert notes == '2 with an empty text left out'
  other = _write(tmp_path / 'b.tsv', 'x\ty\n \tz\n')
  train, held, notes = _divided(Tsv(train=path, validation=other))
  assert train.count == 20
  assert held.columns == (['x'], ['y'])
  assert notes == '3 with an empty text left out'


# What is refused. -------------------------------------------------------------


@pytest.mark.parametrize(
  ('files', 'table', 'message'),
  [
    (
      {'a.en': 'x\ny\n', 'a.de': 'x\n'},
      ParallelText(train='a'),
      r'a\.en has 2, a\.de has 1 lines: line n of one must translate',
    ),
    ({'a.en': 'x'}, ParallelText(train='a'), r'a\.de: does not exist: give'),
    (
      {},
      ParallelText(train='a', suffixes='en'),
      'suffixes=en: must name a file for',
    ),
    (
      {'a.en': b'ok\n\xff', 'a.de': 'x'},
      ParallelText(train='a'),
      r'a\.en: is not UTF-8 text \(byte 3 is 0xff, in line 2\): convert',
    ),
    (
      {'a.en': b'\0', 'a.de': 'x'},
      ParallelText(train='a'),
      r'a\.en: is binary \(it has a zero byte\)',
    ),
    (
      {'a.tsv': 'x\ty\nz\n'},
      Tsv(train='a.tsv'),
      r'a\.tsv: line 2 has 1 columns, not 2 \(source, target\): .z.: put a tab',
    ),
    (
      {'a.tsv': 'source\tx\na\tb'},
      Tsv(train='a.tsv', header=True),
      r'a\.tsv: has no column target: its first line names source, x',
    ),
    ({'a.j': '{"source"'}, Jsonl(train='a.j'), r'a\.j: line 1 is not JSON \('),
    (
      {'a.j': '{"source": "x"}'},
      Jsonl(train='a.j'),
      r'a\.j: line 1 has no target \(source\): set --task\.data\.keys',
    ),
    ({'a.j': '[1]'}, Jsonl(train='a.j'), r'a\.j: line 1 is list, not an obj'),
    (
      {'a.j': '{"source": true, "target": "x"}'},
      Jsonl(train='a.j'),
      r'line 1: source is bool, not text',
    ),
    ({}, Jsonl(train='a.j', keys='x'), 'keys=x: must name a key for each of'),
    ({'a.tsv': ' \t \n'}, Tsv(train='a.tsv'), 'has no row to use: give more'),
    (
      {'a.tsv': 'a\tb'},
      Tsv(train='a.tsv'),
      'leaves no row to evaluate on: give more, or --task.data.validation',
    ),
    (
      {'a.j': '{"source": "a\\ud800b", "target": "x"}'},
      Jsonl(train='a.j'),
      r'line 1: source holds half a character \(..ud800.\): mend it',
    ),
  ],
)
def test_what_is_wrong_is_named(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  files: dict[str, str | bytes],
  table: Table,
  message: str,
) -> None:
  monkeypatch.chdir(tmp_path)
  for name, text in files.items():
    _write(pathlib.Path(name), text)
  with pytest.raises(DataError, match=message) as caught:
    _divided(table)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('keep', [10, 30, -4])
def test_a_torn_archive_is_refused(tmp_path: pathlib.Path, keep: int) -> None:
  data = gzip.compress(os.urandom(200).hex().encode())
  (tmp_path / 'a.en.gz').write_bytes(data[:keep])
  (tmp_path / 'a.de').write_text('x')
  with pytest.raises(DataError, match=r'a\.en\.gz: is not a whole gzip file'):
    _divided(ParallelText(train=str(tmp_path / 'a')))


@pytest.mark.parametrize(
  'bad', [b'\xff', b'\xe6\xb1', b'\xf0\x9f\x99', b'\xc3(', b'\xed\xa0\x80']
)
def test_a_broken_character_is_found_across_pieces(
  tmp_path: pathlib.Path, bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
  text = 'aä汉🙂' * 5
  for piece in (1, 2, 3, 7, 1000):
    monkeypatch.setattr('train.data.textfile.PIECE', piece)
    path = tmp_path / 'a.txt'
    path.write_text(text)
    assert ''.join(iterate_blocks(corpus.read_corpus(str(path)).train)) == text
    path.write_bytes(text.encode() + bad)
    with pytest.raises(DataError, match=rf'\(byte {len(text.encode())} is'):
      list(iterate_blocks(corpus.read_corpus(str(path)).train))


# Named data. ------------------------------------------------------------------


def test_files_are_verified_packed_or_not(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # sha256 of 'abc', FIPS 180-2, appendix B.1.
  sha = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  remote = RemoteFile('x/abc', 'nowhere', sha)
  monkeypatch.setenv('ABLAX_DATA', str(tmp_path))
  _write(tmp_path / 'x' / 'abc.gz', 'abc')
  assert fetch_text(remote) == 'abc'
  _write(tmp_path / 'x' / 'abc', 'abcd')  # comes first
  with pytest.raises(DataError, match='is not the x/abc that is wanted'):
    fetch_text(remote)
  _write(tmp_path / 'x' / 'abc', 'abc')
  assert fetch_text(remote) == 'abc'


def _data_folder() -> pathlib.Path:
  folder = os.environ.get('ABLAX_DATA')
  if not folder or not (pathlib.Path(folder) / 'multi30k_bpe').is_dir():
    pytest.skip('ABLAX_DATA holds no Multi30k')
  return pathlib.Path(folder)


@pytest.mark.parametrize('make', [Multi30k, Multi30kBpe])
def test_multi30k(make: Callable[..., Multi30k | Multi30kBpe]) -> None:
  _data_folder()
  train, held, notes = _divided(make())
  assert (train.count, held.count) == (29_000, 1_014)
  assert notes == '1 rows with a source that has another target in training'
  test = _divided(make(held='test'))[1]
  assert test.count == 1_000
  sources, targets = train.columns
  assert sources[0].lower().startswith('two young')
  assert targets[0].lower().startswith('zwei junge')
  back = _divided(make(source='de'))[0]
  assert back.columns == (targets, sources)
  if make is Multi30kBpe:
    # Figures of the files behind the published score.
    assert sum(len(s.split()) for s in sources) == 397_793
    assert sum(len(s.split()) for s in targets) == 400_507


def test_multi30k_names_each_file_once() -> None:
  every = [*multi30k.RAW_FILES.values(), *multi30k.CUT_FILES.values()]
  assert len(every) == 12
  for field in zip(*every, strict=True):
    assert len(set(field)) == 12


# Other libraries. -------------------------------------------------------------


@pytest.mark.parametrize(
  ('module', 'table'),
  [
    ('datasets', HuggingFace(name='x')),
    ('tensorflow_datasets', Tfds(name='x')),
  ],
)
def test_without_the_library_one_line_says_what_to_install(
  module: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(DataError, match=r'needs .*: pip install -r requirements'):
    _divided(table)


def test_a_name_must_be_given() -> None:
  for table, missing in (
    (HuggingFace(), 'name=none: must be given: NAME of the data set, or a fol'),
    (Tfds(name='x', train=None), 'train=none: must be given: SPLIT of the dat'),
    (Tsv(), 'train=none: must be given: FILE of rows, with tabs between colu'),
    (Jsonl(), 'train=none: must be given: FILE of JSON objects, one a line'),
  ):
    with pytest.raises(FieldError, match=rf'--task\.data\.{missing}'):
      Text(data=table).load()
  match = r'train=none: must be given: PREFIX of parallel files, such as PREFIX'
  with pytest.raises(FieldError, match=match):
    _divided(ParallelText())


def test_hugging_face_on_disk(tmp_path: pathlib.Path) -> None:
  datasets = pytest.importorskip('datasets')
  texts_ = datasets.Value('string')
  features = datasets.Features(
    {
      'translation': {'en': texts_, 'de': texts_},
      'label': datasets.ClassLabel(names=['good', 'bad']),
    }
  )
  pairs = [{'en': f'e{n}', 'de': f'd{n}'} for n in range(20)]
  rows = {'translation': pairs, 'label': [n % 2 for n in range(20)]}
  whole = datasets.Dataset.from_dict(rows, features=features)
  parts = datasets.DatasetDict({'train': whole, 'dev': whole.select([3])})
  parts.save_to_disk(str(tmp_path / 'two'))
  keys = 'translation.en,translation.de'
  table = HuggingFace(name=str(tmp_path / 'two'), validation='dev', keys=keys)
  assert _rows(table)[1] == ('e1', 'd1')
  assert _rows(table, 'validation') == [('e3', 'd3')]
  table = HuggingFace(name=str(tmp_path / 'two'), keys='translation.en,label')
  assert _rows(table)[:2] == [('e0', 'good'), ('e1', 'bad')]
  whole.save_to_disk(str(tmp_path / 'one'))
  table = HuggingFace(name=str(tmp_path / 'one'), keys=keys)
  assert _divided(table, TailSplit())[1].columns[0] == ['e18', 'e19']
  for flags, match in (
    ({'validation': 'dev'}, r'validation=dev: .*/one is one data set, without'),
    ({'train': 'dev'}, r'train=dev: .* without splits: try .*\.train=train$'),
    ({'train': 'x', 'validation': 'x'}, 'validation=x: .* drop the flag to '),
  ):
    with pytest.raises(FieldError, match=match) as refused:
      _divided(dataclasses.replace(table, **flags))
    assert '\n' not in str(refused.value)
  # It may say which split it is.
  said = datasets.Dataset.from_dict(rows, features=features, split='test')
  said.save_to_disk(str(tmp_path / 'said'))
  table = HuggingFace(name=str(tmp_path / 'said'), train='test', keys=keys)
  assert _divided(table, TailSplit())[0].count == 18
  with pytest.raises(FieldError, match=r'train=train: .*\.train=test$'):
    _divided(dataclasses.replace(table, train='train'))
  for name, part in (('two', 'test'), ('nothing', 'train')):
    with pytest.raises(DataError, match='cannot be loaded') as caught:
      _rows(HuggingFace(name=str(tmp_path / name), train=part, keys=keys))
    assert '\n' not in str(caught.value)
  with pytest.raises(DataError, match=r'row 0 has no source \(translation'):
    _rows(HuggingFace(name=str(tmp_path / 'one')))


def test_one_data_set_is_not_taken_for_two(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Without the library: all rows, of which none may be evaluated on twice."""

  class Found(list[Any]):
    features = types.MappingProxyType({})
    split = None

  rows = [{'source': f's{n}', 'target': f't{n}'} for n in range(20)]
  fake = types.SimpleNamespace(
    load_from_disk=lambda folder: Found(rows), ClassLabel=int
  )
  monkeypatch.setitem(sys.modules, 'datasets', fake)
  (tmp_path / 'state.json').touch()
  table = HuggingFace(name=str(tmp_path))
  assert [part.count for part in _divided(table, TailSplit())[:2]] == [18, 2]
  match = r'task\.data\.validation=dev: .* is one data set, without splits'
  with pytest.raises(FieldError, match=match):
    _divided(dataclasses.replace(table, validation='dev'))


def test_hugging_face_from_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pytest.importorskip('datasets')
  monkeypatch.setattr('datasets.config.HF_DATASETS_CACHE', tmp_path / 'cache')
  rows = [json.dumps({'text': f'text {n} ü'}) for n in range(10)]
  _write(tmp_path / 'data' / 'train.jsonl', '\n'.join(rows))
  task = Text(data=HuggingFace(name=str(tmp_path / 'data')), split=TailSplit())
  data = task.load()
  found = data.vocabulary.decode(data.arrays['train'])
  assert found == ''.join(f'text {n} ü' for n in range(9))
  assert data.arrays['train_starts'].tolist() == list(range(0, 72, 8))


def test_tensorflow_datasets(tmp_path: pathlib.Path) -> None:
  tfds = pytest.importorskip('tensorflow_datasets')

  class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> Any:
      names = tfds.features.ClassLabel(names=['good', 'bad'])
      texts_ = tfds.features.Text()
      features = tfds.features.FeaturesDict({'text': texts_, 'label': names})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> Any:
      del dl_manager
      return {'train': self._generate_examples()}

    def _generate_examples(self) -> Any:
      for n in range(10):
        yield n, {'text': f'text {n} ü', 'label': n % 2}

  builder = Tiny(data_dir=str(tmp_path), file_format='array_record')
  builder.download_and_prepare()
  folder = next(tmp_path.rglob('dataset_info.json')).parent
  for table in (
    Tfds(name=str(folder), keys='text,label'),
    Tfds(name='tiny', data_dir=str(tmp_path), keys='text,label'),
  ):
    classes = {f'text {n} ü': ('good', 'bad')[n % 2] for n in range(10)}
    assert dict(_rows(table)) == classes
  with pytest.raises(DataError, match='cannot be loaded') as caught:
    _rows(Tfds(name='nothing', data_dir=str(tmp_path)))
  assert '\n' not in str(caught.value)


def test_rows_of_a_library_are_asked_for_by_its_names(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Without the library: what it is asked for, and what is made of it."""
  asked: list[Any] = []

  class Found(list[Any]):
    features = types.MappingProxyType({})

  def load_dataset(name: str, config: str | None, split: str) -> Found:
    asked.append((name, config, split))
    return Found([{'source': np.int64(3), 'target': b'x'}])

  fake = types.SimpleNamespace(load_dataset=load_dataset, ClassLabel=int)
  monkeypatch.setitem(sys.modules, 'datasets', fake)
  table = HuggingFace(name='n', config='c', train='t', validation='v')
  assert _rows(table) == _rows(table, 'validation') == [('3', 'x')]
  assert asked == [('n', 'c', 't'), ('n', 'c', 'v')]


def test_what_is_of_no_class_is_refused(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Splits without labels have -1, which Python takes for the last of all."""

  class Label(NamedTuple):
    names: tuple[str, ...]

  class Found(list[Any]):
    features = types.MappingProxyType({'label': Label(('good', 'bad'))})

  labels: list[int | None] = []
  fake = types.SimpleNamespace(
    ClassLabel=Label,
    load_dataset=lambda name, config, split: Found(
      {'text': 'x', 'label': label} for label in labels
    ),
  )
  monkeypatch.setitem(sys.modules, 'datasets', fake)
  table = HuggingFace(name='n', keys='text,label')
  labels += [1, 0]
  assert _rows(table) == [('x', 'bad'), ('x', 'good')]
  for label in (-1, 2, None):
    labels[1] = label
    match = rf'n train: row 1 has the label {label}, which is no class \(2 '
    with pytest.raises(DataError, match=match):
      table.rows('train', ('text', 'label'))


# Documents. -------------------------------------------------------------------


def test_a_table_of_documents(tmp_path: pathlib.Path) -> None:
  rows = [f'text {n}\n\nx' for n in range(10)]
  body = '\n'.join(json.dumps({'text': row}) for row in rows)
  path = _write(tmp_path / 'a.jsonl', body)
  data = Text(data=Jsonl(train=path), split=TailSplit()).load()
  assert data.vocabulary.decode(data.arrays['train']) == ''.join(rows[:9])
  assert data.vocabulary.decode(data.arrays['validation']) == rows[9]
  sizes = [len(row) for row in rows[:9]]
  starts = np.cumsum([0, *sizes[:-1]])
  assert data.arrays['train_starts'].tolist() == starts.tolist()
  held = _write(tmp_path / 'b.jsonl', json.dumps({'text': 'new'}))
  data = Text(data=Jsonl(train=path, validation=held)).load()
  assert data.arrays['train'].size == sum(map(len, rows))
  assert data.vocabulary.decode(data.arrays['validation']) == 'new'
  more = _write(tmp_path / 'c.jsonl', f'{body}\n{{"text": ""}}')
  described = Text(data=Jsonl(train=more), split=TailSplit()).load().description
  assert '1 with an empty text left out, validation: ' in described
  both = Text(data=Jsonl(train=path, validation=held), split=TailSplit())
  with pytest.raises(FieldError, match=r'split=tail: has no effect on .*a\.js'):
    both.load()


def test_a_table_excludes_other_texts(tmp_path: pathlib.Path) -> None:
  path = _write(tmp_path / 'a.tsv', 'x\n' * 20)
  for more, match in (
    ({'corpus': 'pydoc'}, r'--corpus=pydoc: has no effect beside --task.data'),
    ({'path': path}, r'--path=.*: has no effect beside --task.data'),
  ):
    with pytest.raises(FieldError, match=match):
      Text(data=Tsv(train=path), **more)
