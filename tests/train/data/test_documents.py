"""Documents: read in blocks, cut into tokens, kept on the disk, in windows."""

import itertools
import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.core.errors import DataError
from train.data import documents
from train.data.documents import (
  Document,
  document,
  iterate_blocks,
  measure_documents,
  split_at,
)
from train.data.splits import tokens
from train.data.splits.corpus import read_corpus
from train.data.splits.tokens import Tokens
from train.tasks.base import Draw
from train.tasks.texts.text import Text
from train.text.tokenizer import (
  AnyTokenizer,
  BpeTokenizer,
  ByteTokenizer,
  CharTokenizer,
  WordTokenizer,
)


def _lines(seed: int, count: int) -> str:
  draw = random.Random(seed)
  words = [''.join(draw.choices('abcdä汉', k=4)) for _ in range(9 * count)]
  ends = draw.choices([' ', ' ', '\n', '\n\n'], k=9 * count)
  return ''.join(w + end for w, end in zip(words, ends, strict=True))


# Blocks. ----------------------------------------------------------------------


@pytest.mark.parametrize('block', [1, 5, 40, 10**6])
def test_blocks_do_not_depend_on_the_pieces(
  block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(documents, 'BLOCK', block)
  text = _lines(0, 30) + 'end'
  draw = random.Random(1)
  want = list(documents.line_blocks([text]))
  assert ''.join(want) == text
  for one in want[:-1]:
    assert one.endswith('\n')
    assert len(one) >= block
    # It ends at the first line break that makes it long enough.
    assert '\n' not in one[block - 1 : -1]
  for _ in range(20):
    cuts = sorted(draw.choices(range(len(text)), k=draw.randint(0, 30)))
    pieces = [
      text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
    ]
    assert list(documents.line_blocks(pieces)) == want
  assert list(documents.line_blocks(['', ''])) == []


@pytest.mark.parametrize('block', [1, 7, 1000])
def test_documents_are_divided_at_a_character(
  block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(documents, 'BLOCK', block)
  parts = [_lines(n, 3) for n in range(3)] + ['', 'x']
  every = [document(str(n), text) for n, text in enumerate(parts)]
  whole, found = ''.join(parts), measure_documents(every)
  assert found.sizes == tuple(map(len, parts))
  first = len(parts[0])
  for at in (0, 1, first - 1, first, first + 1, len(whole) - 1, len(whole)):
    before, after = split_at(every, found.sizes, at)
    assert ''.join(iterate_blocks(before)) == whole[:at]
    assert ''.join(iterate_blocks(after)) == whole[at:]


def test_digest_does_not_depend_on_blocks(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  text = _lines(0, 20)
  whole = measure_documents([document('x', text)]).digest
  monkeypatch.setattr(documents, 'BLOCK', 10)
  assert measure_documents([document('x', text)]).digest == whole
  empty = document('y', '')
  assert measure_documents([empty, document('x', text), empty]).digest == whole


def test_digest_depends_on_where_documents_end() -> None:
  """Segments do, and so do tokens that are kept and trials that go on."""
  text = _lines(0, 20)
  found = {
    measure_documents(
      [document('x', text[:at]), document('y', text[at:])]
    ).digest
    for at in (0, 50, 51)
  }
  assert len(found) == 3


# Tokens. ----------------------------------------------------------------------


def _tokens(tokenizer: AnyTokenizer, every: list[Document]) -> Tokens:
  vocabulary = tokenizer.train(lambda: iterate_blocks(every))
  found = measure_documents(every)
  return tokens.tokenize(every, vocabulary, sum(found.sizes), found.digest)


@pytest.mark.parametrize(
  'tokenizer',
  [
    CharTokenizer(),
    ByteTokenizer(),
    WordTokenizer(),
    BpeTokenizer(vocab_size=300),
  ],
  ids=lambda t: t.tag,
)
def test_tokens_on_the_disk_are_those_in_memory(
  tokenizer: AnyTokenizer,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path))
  every = [document(str(n), _lines(n, 9)) for n in range(4)]
  every.insert(2, document('empty', ''))
  memory = _tokens(tokenizer, every)
  vocabulary = tokenizer.train(lambda: iterate_blocks(every))
  parts = [vocabulary.encode(''.join(one.blocks())) for one in every]
  assert memory.ids_X.tolist() == np.concatenate(parts).tolist()
  sizes = [ids.size for ids in parts if ids.size]
  assert memory.starts_X.tolist() == [0, *np.cumsum(sizes)[:-1]]
  assert not list(tmp_path.rglob('ids.bin'))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  for _ in range(2):  # written, then found
    disk = _tokens(tokenizer, every)
    assert isinstance(disk.ids_X, np.memmap)
    assert disk.ids_X.dtype == memory.ids_X.dtype
    assert disk.ids_X.tolist() == memory.ids_X.tolist()
    assert disk.starts_X.tolist() == memory.starts_X.tolist()
    monkeypatch.setattr(tokens, '_write', _refuse)


def _refuse(*arguments: object) -> None:
  raise AssertionError(f'cut again: {arguments}')


def test_damaged_tokens_are_cut_again(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  every = [document('x', _lines(0, 9))]
  want = _tokens(CharTokenizer(), every).ids_X.tolist()
  (path,) = tmp_path.rglob('ids.bin')
  whole = path.read_bytes()
  flipped = bytes([whole[0] ^ 1]) + whole[1:]
  for bad in (flipped, whole[:-1], whole + b'\0', b''):
    path.write_bytes(bad)
    assert _tokens(CharTokenizer(), every).ids_X.tolist() == want
    assert path.read_bytes() == whole
  for name in ('sha256', 'starts.bin'):
    kept = (path.parent / name).read_bytes()
    for bad in (b'', b'{}', kept[:-1], bytes([kept[0] ^ 1]) + kept[1:]):
      (path.parent / name).write_bytes(bad)
      found = _tokens(CharTokenizer(), every)
      assert found.ids_X.tolist() == want
      assert found.starts_X.tolist() == [0]
      assert (path.parent / name).read_bytes() == kept
  left = [p.name for p in (tmp_path / 'tokens').iterdir()]
  assert left == [path.parent.name]


def test_kept_tokens_are_those_of_their_documents(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  text = _lines(0, 9)
  for cuts in ((), (30,), (40,), (30, 40)):
    ends = [0, *cuts, len(text)]
    every = [
      document(str(at), text[at:end]) for at, end in itertools.pairwise(ends)
    ]
    assert _tokens(CharTokenizer(), every).starts_X.tolist() == ends[:-1]


def test_a_long_text_without_a_token_is_cut(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  assert _tokens(WordTokenizer(), [document('x', ' ' * 99)]).ids_X.size == 0


def test_a_cache_without_room_is_named(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'file'))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  with pytest.raises(DataError, match=r'cannot be kept there .*ABLAX_CACHE'):
    _tokens(CharTokenizer(), [document('x', 'text')])


@pytest.mark.parametrize(
  'tokenizer', [CharTokenizer(), WordTokenizer()], ids=lambda t: t.tag
)
def test_a_long_text_is_loaded_as_a_short_one(
  tokenizer: AnyTokenizer,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'texts').mkdir()
  for n in range(3):
    (tmp_path / 'texts' / f'{n}.txt').write_text(_lines(n, 9))
  task = Text(path=str(tmp_path / 'texts'), tokenizer=tokenizer)
  short = task.load()
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  monkeypatch.setattr(documents, 'BLOCK', 20)
  monkeypatch.setattr('train.data.textfile.PIECE', 7)
  long = task.load()
  assert isinstance(long.arrays['train'], np.memmap)
  assert long.digest == short.digest
  assert long.vocabulary == short.vocabulary
  for name, array in short.arrays.items():
    assert np.array_equal(long.arrays[name], array), name


# Windows. ---------------------------------------------------------------------


def test_segments_number_the_documents_of_a_window(
  tmp_path: pathlib.Path,
) -> None:
  # A character names its document.
  sizes = [30, 1, 2, 50, 4, 40]
  for n, size in enumerate(sizes):
    (tmp_path / f'{n}.txt').write_text(chr(97 + n) * size)
  task = Text(path=str(tmp_path))
  assert task.gives_segments
  data = task.load()
  arrays = {name: jnp.asarray(x) for name, x in data.arrays.items()}
  seen = set()
  batches = [
    task.batch(arrays, Draw(jax.random.key(3), jnp.int32(step), 8, 12))
    for step in range(10)
  ]
  size = task.evaluation_size(arrays, 12)
  batches.append(task.evaluation_batch(arrays, jnp.arange(size), 12))
  for batch in batches:
    assert batch.inputs.segments_BT is not None
    assert batch.inputs.segments_BT.dtype == jnp.int32
    for inputs_T, segments_T in zip(
      np.asarray(batch.inputs.tokens_BT),
      np.asarray(batch.inputs.segments_BT),
      strict=True,
    ):
      want, last = [0], None
      for token in inputs_T:
        want.append(want[-1] + (token != last))
        last = token
      assert segments_T.tolist() == want[1:]
      seen.add(max(want))
  assert {1, 2, 3} <= seen


def test_topics_of_the_language_reference_are_documents() -> None:
  data = Text().load()
  starts = data.arrays['train_starts']
  text = data.vocabulary.decode(data.arrays['train'])
  assert len(starts) > 40
  assert all(text[n - 1] == '\n' for n in starts[1:])


def test_a_file_is_read_in_blocks(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(documents, 'BLOCK', 100)
  monkeypatch.setattr('train.data.textfile.PIECE', 64)
  text = _lines(5, 40)
  (tmp_path / 'a.txt').write_text(text)
  (one,) = read_corpus(str(tmp_path / 'a.txt')).train
  blocks = list(one.blocks())
  assert len(blocks) > 5
  assert ''.join(blocks) == text
  assert list(one.blocks()) == blocks
