"""Which of a text is judged: split before it is cut, each target once."""

import gzip
import inspect
import os
import pathlib
import random
import sys
import tracemalloc
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.core.field import FieldError
from train.core.errors import DataError
from train.data import documents, textfile
from train.data.documents import Document, document, iterate_blocks
from train.data.splits import corpus, overlap
from train.data.splits.divided import split_corpus
from train.data.splits.splits import (
  AnySplit,
  AutoSplit,
  EachSplit,
  FileSplit,
  HashSplit,
  TailSplit,
)
from train.tasks.base import TOKEN_BYTES
from train.tasks.texts.mlm import Mlm
from train.tasks.texts.text import Text
from train.tasks.windows import WindowTask
from train.text.tokenizer import (
  AnyTokenizer,
  BpeTokenizer,
  ByteTokenizer,
  CharTokenizer,
  WordTokenizer,
)
from train.text.vocabulary import CharVocabulary

WORDS = ('naïve', '汉字', 'straße', 'cat', 'sat', 'mat', '🙂', 'Ωmega')


def _prose(seed: int, count: int) -> str:
  draw = random.Random(seed)
  return ' '.join(draw.choices(WORDS, k=count)) + '\n'


def _folder(path: pathlib.Path, texts: Mapping[str, str]) -> str:
  path.mkdir(exist_ok=True)
  for name, text in texts.items():
    (path / name).write_text(text)
  return str(path)


def _parts(split: AnySplit, every: list[Document]) -> tuple[set[str], set[str]]:
  parts = split_corpus(split, corpus.Corpus('x', every)).parts
  train, held = ({one.name for one in part} for part in parts[:2])
  return train, held


def _judged(task: WindowTask, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tokens of the validation part, and all targets that count."""
  data = task.load()
  size = task.evaluation_size(data.arrays, seq_len)
  rows = task.evaluation_rows(data.arrays, np.arange(size), seq_len)
  assert rows.tokens_BT.shape == (size, seq_len + task.ahead)
  counted_BT = np.asarray(rows.weights_BT(task.ahead)) == 1
  assert counted_BT.any(axis=1).all()
  return data.arrays['validation'], rows.tokens_BT[:, task.ahead :][counted_BT]


# One text, every target once. -------------------------------------------------


@pytest.mark.parametrize(
  'tokenizer',
  [
    CharTokenizer(),
    ByteTokenizer(),
    BpeTokenizer(vocab_size=300),
    WordTokenizer(),
  ],
  ids=lambda t: t.tag,
)
@pytest.mark.parametrize('tail', [0, 1])
def test_every_tokenizer_judges_one_text(
  tokenizer: AnyTokenizer, tail: int, tmp_path: pathlib.Path
) -> None:
  """Cut in the middle of a word, of characters of one to four bytes."""
  text = _prose(3, 900) + 'x' * tail
  path = tmp_path / 'a.txt'
  path.write_text(text)
  held = text[int(0.9 * len(text)) :]
  task = Text(path=str(path), tokenizer=tokenizer)
  vocabulary = task.load().vocabulary
  for seq_len in (1, 7, 16, 50):
    ids, targets = _judged(task, seq_len)
    assert targets.tolist() == ids[1:].tolist()
    if isinstance(tokenizer, WordTokenizer):
      known = ' '.join(vocabulary.symbols(ids)).split()
      want = [word for word in held.split() if word in WORDS]
      assert [word for word in known if word in WORDS] == want
    else:
      assert vocabulary.decode([ids[0], *targets]) == held


def test_each_token_is_hidden_once(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.txt'
  path.write_text(_prose(3, 300))
  task = Mlm(path=str(path), rate=1.0)
  for seq_len in (1, 7, 16, 50):
    ids, targets = _judged(task, seq_len)
    assert targets.tolist() == ids.tolist()
  arrays = {name: jnp.asarray(x) for name, x in task.load().arrays.items()}
  numbers = jnp.arange(task.evaluation_size(arrays, 16))
  made = jax.jit(lambda: task.evaluation_batch(arrays, numbers, 16))()
  assert (
    np.asarray(made.targets_BT)[made.weights_BT == 1].tolist() == ids.tolist()
  )


# Which documents. -------------------------------------------------------------


def _many(count: int) -> list[Document]:
  return [document(f'{n}.txt', _prose(n, 40)) for n in range(count)]


def test_a_document_that_is_added_moves_no_other() -> None:
  every = _many(300)
  train, held = _parts(HashSplit(), every)
  assert 10 < len(held) < 60
  for fewer in (every[:150], every[::3], every[::-1]):
    some, few = _parts(HashSplit(), fewer)
    assert some <= train
    assert few <= held
  renamed = [one._replace(name=f'x{one.name}') for one in every]
  assert _parts(HashSplit(), renamed)[1] == {f'x{name}' for name in held}
  assert _parts(HashSplit(seed=1), every)[1] != held


def test_equal_documents_are_in_one_part() -> None:
  every = _many(100)
  twice = every + [one._replace(name=f'copy of {one.name}') for one in every]
  held = _parts(HashSplit(), twice)[1]
  assert held == {
    f'{how}{n}' for n in _parts(HashSplit(), every)[1] for how in _COPY
  }


_COPY = ('', 'copy of ')


def test_the_split_suits_the_text_and_is_said(tmp_path: pathlib.Path) -> None:
  one = _folder(tmp_path / 'one', {'a': _prose(0, 400), 'empty': ''})
  few = _folder(tmp_path / 'few', {f'{n}': _prose(n, 99) for n in range(4)})
  many = _folder(tmp_path / 'many', {f'{n}': _prose(n, 40) for n in range(99)})
  for path, said, held in (
    (one, 'the end of a (--task.split=tail), ', 1),
    (few, 'the end of each of 4 documents (--task.split=each), ', 4),
    (many, ' more of 99 documents (--task.split=hash), ', None),
  ):
    data = Text(path=path).load()
    assert said in data.description
    if held is not None:
      assert data.arrays['validation_starts'].size == held
    size = data.validation_characters
    assert f'validation: {size:,} characters, ' in data.description
    assert size == data.arrays['validation'].size  # a token is a character
    share = size / (size + data.arrays['train'].size)
    assert 1 / 30 < share < 1 / 4
  # The last tenth by name, as it was.
  data = Text(path=many, split=TailSplit()).load()
  assert 'the end of 9, 90 and 8 more ' in data.description


def test_each_document_gives_its_end() -> None:
  every = _many(5)
  parts = split_corpus(EachSplit(), corpus.Corpus('x', every)).parts
  assert len(parts.train) == len(parts.held) == 5
  for whole, first, last in zip(every, *parts[:2], strict=True):
    first, last = (''.join(iterate_blocks([one])) for one in (first, last))
    assert first + last == ''.join(iterate_blocks([whole]))
    assert len(last) == (len(first) + len(last)) // 10
  # Of a document of a few characters there is no tenth.
  tiny = [document('a', 'abc'), document('b', _prose(0, 40))]
  assert _parts(EachSplit(), tiny) == ({'a', 'b'}, {'b'})


def test_the_judged_text_may_be_another(tmp_path: pathlib.Path) -> None:
  first, other = tmp_path / 'a.txt', tmp_path / 'b.txt'
  first.write_text(_prose(0, 99))
  other.write_text(_prose(1, 50))
  task = Text(path=str(first), split=FileSplit(path=str(other)))
  data = task.load()
  decode = data.vocabulary.decode
  assert decode(data.arrays['train']) == first.read_text()
  assert decode(data.arrays['validation']) == other.read_text()
  assert f'all of {other} (--task.split=file)' in data.description
  other.write_text(_prose(2, 50))
  assert task.load().digest != data.digest


def test_what_is_learned_depends_on_the_split(tmp_path: pathlib.Path) -> None:
  """And what is kept in the cache does not mix them."""
  path = _folder(tmp_path / 'x', {'a': 'one ' * 99, 'b': 'two ' * 11})
  for _ in range(2):
    for split, known in ((TailSplit(), False), (EachSplit(), True)):
      data = Text(path=path, split=split, tokenizer=WordTokenizer()).load()
      symbols = data.vocabulary.symbols(np.arange(data.vocabulary.size))
      assert ('two' in symbols) == known


@pytest.mark.parametrize(
  ('split', 'match'),
  [
    (
      HashSplit(),
      r'--task\.split=hash: of 2 documents none falls into the vali',
    ),
    (FileSplit(), r'--task\.split\.path=none: must be given: a text file'),
    (FileSplit(path=''), r'--task\.split\.path= is empty: give'),
    (FileSplit(path='gone'), r'gone: does not exist: give'),
    (FileSplit(path='pipe'), r'pipe: is a pipe or a device'),
    (FileSplit(path='void'), r'void: is empty: give'),
  ],
  ids=str,
)
def test_a_split_without_text_is_refused(
  split: AnySplit,
  match: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  os.mkfifo('pipe')
  pathlib.Path('void').touch()
  path = _folder(tmp_path / 'x', {'a': _prose(0, 40), 'b': _prose(1, 40)})
  with pytest.raises((FieldError, DataError), match=match):
    Text(path=path, split=split).load()


# What was trained on. ---------------------------------------------------------


def _line(n: int) -> str:
  return f'this is line number {n} of a text of many lines\n'


def test_lines_that_are_trained_on_are_counted(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.txt'
  lines = [_line(n) for n in range(100)]
  path.write_text(''.join(lines))
  assert 'trained on' not in Text(path=str(path)).load().description
  path.write_text(''.join([*lines[:95], *lines[:4], lines[99]]))
  described = Text(path=str(path)).load().description
  assert ', 4 of its 10 long lines (40.00%) are trained on, ' in described


def test_nothing_but_memory_is_not_judged(tmp_path: pathlib.Path) -> None:
  """12 of 12: a copy, a part, a text that occurs twice, other white space."""
  path, other = tmp_path / 'a.txt', tmp_path / 'b.txt'
  lines = [_line(n) for n in range(100)]
  path.write_text(''.join(lines))
  judged = Text(path=str(path), split=FileSplit(path=str(other)))
  for text in (lines, lines[50:60], ['  ', lines[3], '\r\n', lines[7]]):
    other.write_text(''.join(text))
    with pytest.raises(DataError, match=r'a\.txt: all of its validation part '):
      judged.load()
  other.write_text(''.join(lines[50:60]) + 'and one that is new, and long too')
  assert '10 of its 11 long lines' in judged.load().description
  path.write_text(''.join(lines * 2))
  with pytest.raises(DataError, match=r'\(1 of 1 documents\)'):
    Text(path=str(path)).load()
  folder = _folder(tmp_path / 'x', {str(n): 'a short row' for n in range(12)})
  described = Text(path=folder, split=TailSplit()).load().description
  assert ', 1 of its 2 documents are trained on, ' in described
  with pytest.raises(DataError, match=r'\(12 of 12 documents\)'):
    Text(path=folder, split=FileSplit(path=folder)).load()


def test_short_lines_are_equal_by_chance(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.txt'
  draw = random.Random(0)
  sums = [f'{draw.randrange(5)}+{draw.randrange(5)}\n' for _ in range(900)]
  path.write_text(''.join(sums))
  assert 'trained on' not in Text(path=str(path)).load().description


def test_sections_of_a_topic_are_no_topics_of_their_own() -> None:
  """Else a third of what is judged would be trained on."""
  source = corpus.pydoc()
  parts = split_corpus(AutoSplit(), source).parts
  assert len(parts.held) >= 3
  said = overlap.describe_overlap('pydoc', parts.train, parts.held)
  share = float(said.partition('(')[2].partition('%')[0]) if said else 0.0
  assert share < 5
  assert 'sections of others left out' in source.notes


# Files. -----------------------------------------------------------------------


def test_a_file_that_unpacks_without_end_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(textfile, 'ROOM', 2**21)
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(gzip.compress(b'abc\n' * 2**20))
  with pytest.raises(DataError, match=r'a\.txt\.gz: unpacks to more than 100 '):
    Text(path=str(path)).load()
  plain = tmp_path / 'a.txt'
  plain.write_bytes(b'abc\n' * 2**20)
  assert len(textfile.read_file(plain)) == 2**22


def test_a_table_may_not_be_a_pipe(tmp_path: pathlib.Path) -> None:
  """It would wait for ever."""
  os.mkfifo(tmp_path / 'a.tsv')
  with pytest.raises(DataError, match=r'a\.tsv: is a pipe or a device'):
    textfile.read_file(tmp_path / 'a.tsv')


def test_a_folder_may_be_deeper_than_calls(tmp_path: pathlib.Path) -> None:
  deep = tmp_path.joinpath('x', *'d' * 300)
  deep.mkdir(parents=True)
  (deep / 'a.txt').write_text('deep')
  limit = sys.getrecursionlimit()
  sys.setrecursionlimit(len(inspect.stack(0)) + 100)
  try:
    (one,) = corpus.read_corpus(str(tmp_path / 'x')).train
  finally:
    sys.setrecursionlimit(limit)
  assert ''.join(iterate_blocks([one])) == 'deep'


def test_a_text_without_lines_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(documents, 'BLOCK', 4)
  monkeypatch.setattr(documents, 'MAX_BLOCK', 10)
  text = 'abcdefghijklm\nno\npqrs\nt' + 'u' * 21
  want = ['abcdefghij', 'klm\n', 'no\npqrs\n', 't' + 'u' * 9, 'u' * 10, 'uu']
  for size in (1, 2, 3, 99):
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    assert list(documents.line_blocks(pieces)) == want


@pytest.mark.parametrize(
  'tokenizer', [CharTokenizer(), ByteTokenizer()], ids=lambda t: t.tag
)
def test_tokens_are_narrow_from_the_start(tokenizer: AnyTokenizer) -> None:
  """Not eight bytes each on the way."""
  text = 'abcdefgh' * 2**15
  vocabulary = tokenizer.train(lambda: [text])
  vocabulary.encode('a')
  tracemalloc.start()
  ids = vocabulary.encode(text)
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert ids.itemsize == 1
  # Code points and their places, four bytes each.
  assert most < 11 * len(text)


def test_unknown_characters_lie_anywhere() -> None:
  vocabulary = CharVocabulary('bdé')
  assert vocabulary.encode('débd').tolist() == [1, 2, 0, 1]
  for other in ('a', 'c', 'è', 'ê', '🙂', '\0', '\U0010ffff'):
    with pytest.raises(ValueError, match='1 characters are not'):
      vocabulary.encode(f'b{other}')
  assert CharVocabulary('\0\U0010ffff').encode('\U0010ffff\0').tolist() == [
    1,
    0,
  ]


# What a loss means. -----------------------------------------------------------


@pytest.mark.parametrize(
  ('tokenizer', 'lossless'),
  [
    (CharTokenizer(), True),
    (ByteTokenizer(), True),
    (BpeTokenizer(vocab_size=300), True),
    (WordTokenizer(), False),
  ],
  ids=str,
)
def test_all_of_a_text_is_measured_in_its_own_bytes(
  tokenizer: AnyTokenizer, lossless: bool, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'a.txt'
  path.write_text(_prose(0, 300))
  task = Text(path=str(path), tokenizer=tokenizer)
  data = task.load_all(task.load().vocabulary)
  assert 'train' not in data.arrays
  assert 'all of it' in data.description
  ids = data.arrays['validation']
  assert task.problem(data, ids.size - 1) is None
  assert task.problem(data, ids.size)
  found = task.measures(data)
  assert found['characters'] == len(path.read_text())
  assert found['tokens'] == ids.size
  # Of words no number of bytes is known, and so no bits per byte are said.
  assert (TOKEN_BYTES in data.arrays) == lossless
  if lossless:
    sizes = data.arrays[TOKEN_BYTES][ids]
    assert sizes.sum() == len(path.read_text().encode())
