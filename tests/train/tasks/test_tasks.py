"""Tasks and corpora: what a batch is, and where text comes from.

The digests pinned here say that data order and initial values are the same on
every supported version of JAX.
"""

import dataclasses
import hashlib
import os
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
from jax.typing import ArrayLike

from model.core.field import FieldError
from model.core.parameter import key_of
from train.config.config import Config
from train.core.errors import DataError
from train.core.trees import flatten
from train.data.documents import iterate_blocks
from train.data.splits import corpus
from train.files.durable import digest
from train.flags.schema import override
from train.programs.batches import batch_of
from train.programs.state import init_state
from train.tasks.base import Batch, Data, Draw
from train.tasks.texts.text import Text
from train.text.tokenizer import CharTokenizer

COUNTED = ''.join(chr(97 + n % 26) + str(n % 10) for n in range(300))


def _write(
  folder: pathlib.Path, text: str | bytes, name: str = 'a.txt'
) -> Text:
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode() if isinstance(text, str) else text)
  return Text(path=str(path))


def _text(source: corpus.Corpus) -> str:
  return ''.join(iterate_blocks(source.train))


def _read(path: pathlib.Path) -> str:
  return _text(corpus.read_corpus(str(path)))


@pytest.fixture
def counted(tmp_path: pathlib.Path) -> tuple[Text, Data]:
  task = _write(tmp_path, COUNTED)
  return task, task.load()


def _batch(
  task: Text, data: Data, step: int, size: int = 8, seq_len: int = 16
) -> Batch:
  arrays = {name: jnp.asarray(ids) for name, ids in data.arrays.items()}
  return task.batch(arrays, _draw(step, size, seq_len))


def _draw(
  step: ArrayLike, size: int = 8, seq_len: int = 16, key: int = 7
) -> Draw:
  return Draw(jax.random.key(key), jnp.asarray(step), size, seq_len)


def _bytes(batch: Batch) -> list[bytes]:
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(batch)]


# Batches. ---------------------------------------------------------------------


def test_batch_is_a_function_of_key_and_step(
  counted: tuple[Text, Data],
) -> None:
  forth = [_bytes(_batch(*counted, step)) for step in (0, 1, 5)]
  back = [_bytes(_batch(*counted, step)) for step in (5, 1, 0)]
  assert forth == back[::-1]
  task, data = counted
  arrays = {name: jnp.asarray(ids) for name, ids in data.arrays.items()}
  compiled = jax.jit(lambda step: task.batch(arrays, _draw(step)))
  assert _bytes(compiled(jnp.int32(5))) == forth[2]
  other = task.batch(arrays, _draw(0, key=8))
  assert not np.array_equal(
    other.inputs.tokens_BT, _batch(*counted, 0).inputs.tokens_BT
  )
  assert np.array_equal(other.ids_B, _batch(*counted, 0).ids_B)


def test_example_does_not_depend_on_the_batch_around_it(
  counted: tuple[Text, Data],
) -> None:
  # Example 10 is the third of step 1 of 8, and the first of step 5 of 2.
  large, small = _batch(*counted, 1), _batch(*counted, 5, size=2)
  assert int(large.ids_B[2]) == int(small.ids_B[0]) == 10
  assert np.array_equal(large.inputs.tokens_BT[2], small.inputs.tokens_BT[0])


def test_steps_and_examples_differ(counted: tuple[Text, Data]) -> None:
  batches = [_batch(*counted, step) for step in range(20)]
  ids = np.concatenate([b.ids_B for b in batches])
  assert ids.tolist() == list(range(160))
  windows = {
    np.asarray(x).tobytes() for b in batches for x in b.inputs.tokens_BT
  }
  # 524 offsets, 160 draws: about 22 pairs coincide.
  assert len(windows) > 100


def test_targets_are_inputs_shifted_by_one(counted: tuple[Text, Data]) -> None:
  _, data = counted
  text = data.vocabulary.decode(data.arrays['train'])
  batch = _batch(*counted, 3)
  assert batch.weights_BT.shape == batch.inputs.tokens_BT.shape == (8, 16)
  assert (np.asarray(batch.weights_BT) == 1).all()
  for inputs_T, targets_T in zip(
    batch.inputs.tokens_BT, batch.targets_BT, strict=True
  ):
    assert np.array_equal(inputs_T[1:], targets_T[:-1])
    window = data.vocabulary.decode(np.append(inputs_T, targets_T[-1]))
    assert window in text


@pytest.mark.slow
def test_offsets_reach_the_last_and_stay_inside(tmp_path: pathlib.Path) -> None:
  # All characters differ, so that a window tells its offset.
  text = ''.join(map(chr, range(0x4E00, 0x4E00 + 40)))
  task = _write(tmp_path, text)
  data = task.load()
  assert data.arrays['train'].size == 36
  seen: set[int] = set()
  for step in range(40):
    batch = _batch(task, data, step, size=32, seq_len=30)
    for inputs_T, target in zip(
      batch.inputs.tokens_BT, batch.targets_BT[:, -1], strict=True
    ):
      start = int(inputs_T[0])
      # A gather clamps what lies outside: a clamped window has a repetition.
      assert inputs_T.tolist() == list(range(start, start + 30))
      assert int(target) == start + 30
      seen.add(start)
  assert seen == set(range(6))


def test_the_shortest_text_has_one_window(tmp_path: pathlib.Path) -> None:
  task = _write(tmp_path, 'abcdefghij' * 2)
  data = task.load()
  assert task.problem(data, 1) is None
  assert task.evaluation_size(data.arrays, 1) == 1
  problem = task.problem(data, 2)
  assert problem
  assert 'a.txt: its validation part has 2 tokens' in problem
  assert '--seq_len=2' in problem


def test_split_has_no_overlap(counted: tuple[Text, Data]) -> None:
  task, data = counted
  train, held = data.arrays['train'], data.arrays['validation']
  assert (train.size, held.size) == (540, 60)
  whole = data.vocabulary.decode(np.concatenate([train, held]))
  assert whole == COUNTED
  arrays = {name: jnp.asarray(ids) for name, ids in data.arrays.items()}
  size = task.evaluation_size(arrays, 16)
  assert size == 4
  batch = task.evaluation_batch(arrays, jnp.arange(size), 16)
  # The last window ends with the text; of its 16 targets 11 are new.
  inputs_BT, targets_BT = map(
    np.asarray, (batch.inputs.tokens_BT, batch.targets_BT)
  )
  assert np.array_equal(inputs_BT[:3].ravel(), held[:48])
  assert np.array_equal(inputs_BT[3], held[43:59])
  counted_BT = np.asarray(batch.weights_BT) == 1
  assert counted_BT.sum() == 59
  assert np.array_equal(targets_BT[counted_BT], held[1:])


def test_rows_with_one_seed_share_their_batches(
  counted: tuple[Text, Data],
) -> None:
  task, data = counted
  arrays = {name: jnp.asarray(ids) for name, ids in data.arrays.items()}
  base = dataclasses.replace(Config(), task=task)
  same = override(
    base,
    {'position': 'rope', 'learning_rate': '0.1', 'dropout_residual': '0.2'},
  )
  other = override(base, {'seed': '1'})
  first, second, third = (
    batch_of(c, arrays, jnp.int32(2)).inputs.tokens_BT
    for c in (base, same, other)
  )
  assert np.array_equal(first, second)
  assert not np.array_equal(first, third)


# Texts with unknown characters. ----------------------------------------------


def test_text_with_unknown_characters_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  task = _write(tmp_path, 'naïve')
  with pytest.raises(DataError, match=r"'ï'.*--task\.tokenizer=byte"):
    task.load(CharTokenizer().train(lambda: ['naive']))
  known = task.load(CharTokenizer().train(lambda: ['naïve!']))
  assert known.vocabulary.size == 6


# Files and folders. -----------------------------------------------------------


def test_folder_is_read_in_order_without_hidden_files(
  tmp_path: pathlib.Path,
) -> None:
  for name in ('b.txt', 'a/z.txt', 'a/b/c', '10', '9', 'empty'):
    _write(tmp_path, '' if name == 'empty' else f'<{name}>', name)
  for name in ('.hidden', 'a/.x', '.git/config', 'a/.y/z'):
    _write(tmp_path, b'\0 hidden', name)
  assert _read(tmp_path) == '<10><9><a/b/c><a/z.txt><b.txt>'


def test_folder_below_a_hidden_one_is_read(tmp_path: pathlib.Path) -> None:
  _write(tmp_path, 'text', '.local/data/a.txt')
  assert _read(tmp_path / '.local' / 'data') == 'text'


def test_what_is_not_read_of_a_folder_is_counted(
  tmp_path: pathlib.Path,
) -> None:
  """A hidden file, a hidden folder, a circle, a link to nowhere, a pipe."""
  folder = tmp_path / 'folder'
  for name in ('a.txt', 'b/c.txt', 'b/.hidden', '.git/x', '.git/y'):
    _write(folder, name, name)
  (folder / 'b' / 'circle').symlink_to(folder)
  (folder / 'nowhere').symlink_to('absent')
  os.mkfifo(folder / 'b' / 'pipe')
  assert _read(folder) == 'a.txtb/c.txt'
  assert corpus.read_corpus(str(folder)).notes.startswith('5 hidden names, ')


def test_a_pipe_is_refused(tmp_path: pathlib.Path) -> None:
  """It would be empty when it is read again."""
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(DataError, match=r'/pipe: is a pipe .* write it to a fi'):
    corpus.read_corpus(str(tmp_path / 'pipe'))


def test_byte_order_mark_is_no_character(tmp_path: pathlib.Path) -> None:
  _write(tmp_path, b'\xef\xbb\xbfone', 'a')
  _write(tmp_path, b'\xef\xbb\xbftwo', 'b')
  assert _read(tmp_path / 'a') == 'one'
  assert _read(tmp_path) == 'onetwo'


def test_line_ends_are_those_of_one_system(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """CR LF is LF, wherever a piece ends; another CR is a character."""
  lines = 'ä\nb\rc\n\r\n\n' * 9 + 'end\r'
  task = _write(tmp_path, lines.replace('\r\n', '\n'))
  want = task.load()
  assert 'CR LF' not in want.description
  task = _write(tmp_path, lines.replace('\r\n', '\n').replace('\n', '\r\n'))
  for piece in (1, 2, 3, 7, 2**20):
    monkeypatch.setattr('train.data.textfile.PIECE', piece)
    found = task.load()
    assert found.digest == want.digest
    assert np.array_equal(found.arrays['train'], want.arrays['train'])
    assert ', 36 line ends CR LF read as LF, ' in found.description
  task = _write(tmp_path, b'\xef\xbb\xbf' + lines.encode())
  assert ', 1 byte order marks left out, ' in task.load().description


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', r'a\.txt: is empty: give'),
    (b'\xef\xbb\xbf', r'a\.txt: is empty: give'),
    (b'a\nb\n\xff', r'\(byte 4 is 0xff, in line 3\): convert'),
    (b'ab\0c', r'a\.txt: is binary \(it has a zero byte\): give'),
    (b'abc\xff', r'a\.txt: is not UTF-8 text \(byte 3 is 0xff, in line 1\)'),
    ('né'.encode('latin-1'), r'\(byte 1 is 0xe9, in line 1\): convert it'),
    ('text'.encode('utf-16'), r'a\.txt: is binary'),
  ],
)
def test_what_is_no_text_is_refused(
  tmp_path: pathlib.Path, content: bytes, message: str
) -> None:
  task = _write(tmp_path, content)
  with pytest.raises(DataError, match=message):
    task.load()
  with pytest.raises(DataError, match=message.replace(r'a\.txt', '.*')):
    Text(path=str(tmp_path)).load()


def test_what_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(DataError, match='gone: does not exist: give'):
    Text(path=str(tmp_path / 'gone')).load()
  with pytest.raises(DataError, match='the folder holds no file: give'):
    Text(path=str(tmp_path)).load()


def test_a_path_and_a_corpus_exclude_each_other(
  tmp_path: pathlib.Path,
) -> None:
  with pytest.raises(FieldError, match=r'--corpus=pydoc: has no effect beside'):
    Text(path=str(tmp_path), corpus='pydoc')


# Named corpora. ---------------------------------------------------------------


def test_shakespeare_is_found_in_the_data_folder(
  shakespeare: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('ABLAX_DATA', str(shakespeare.parent))
  data = Text(corpus='shakespeare').load()
  assert data.digest == corpus.SHAKESPEARE.sha256
  assert data.description == (
    'shakespeare: 1,115,394 chars, 65 symbols, validation: 111,540 '
    'characters, the end of shakespeare (--task.split=tail), '
    'sha256 86c4e6aa9db7'
  )
  assert data.arrays['train'].size == 1_003_854  # nanoGPT's split
  assert data.arrays['train'].dtype == np.uint8


def test_a_shakespeare_out_of_reach_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('ABLAX_DATA', str(tmp_path))
  _write(tmp_path, 'text', 'tinyshakespeare.txt')

  def refuse(path: pathlib.Path, mode: str) -> bytes:
    raise PermissionError(13, 'Permission denied', f'{path} {mode}')

  monkeypatch.setattr(pathlib.Path, 'open', refuse)
  with pytest.raises(DataError, match=r'\(Permission denied\): .* ABLAX_DATA'):
    corpus.shakespeare()


def test_another_shakespeare_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'tinyshakespeare.txt').write_text('To be, or not to be.')
  monkeypatch.setenv('ABLAX_DATA', str(tmp_path))
  with pytest.raises(DataError, match=r'is not the tinyshake.*86c4e6aa9db7'):
    Text(corpus='shakespeare').load()


@pytest.mark.parametrize('folder', [True, False])
@pytest.mark.parametrize(
  'error',
  [
    ConnectionError('Name or service not known\nin five lines'),
    ValueError('SHA256 hash of downloaded file does not match'),
    TimeoutError(),
  ],
  ids=['no network', 'another file', 'no message'],
)
def test_without_a_network_one_line_says_what_to_do(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  folder: bool,
  error: Exception,
) -> None:
  asked = []

  def fail(
    url: str, known_hash: str, fname: str, path: object, progressbar: bool
  ) -> str:
    del fname, path, progressbar
    asked.append((url, known_hash))
    raise error

  monkeypatch.setattr(pooch, 'retrieve', fail)
  monkeypatch.delenv('ABLAX_DATA', raising=False)
  if folder:  # without the file in it
    monkeypatch.setenv('ABLAX_DATA', str(tmp_path))
  with pytest.raises(DataError) as caught:
    Text(corpus='shakespeare').load()
  message = str(caught.value)
  assert '\n' not in message
  assert message.startswith('tinyshakespeare.txt: cannot be downloaded from ')
  assert type(error).__name__ in message
  assert message.endswith('set ABLAX_DATA to that folder')
  assert asked == [
    (corpus.SHAKESPEARE.url, f'sha256:{corpus.SHAKESPEARE.sha256}')
  ]


def test_download_is_used_where_it_succeeds(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'fetched.txt'
  path.write_text('fetched')

  def fetch(
    url: str, known_hash: str, fname: str, path: object, progressbar: bool
  ) -> str:
    del url, known_hash, path, progressbar
    assert fname == 'tinyshakespeare.txt'
    return str(tmp_path / 'fetched.txt')

  monkeypatch.setattr(pooch, 'retrieve', fetch)
  monkeypatch.delenv('ABLAX_DATA', raising=False)
  assert _text(corpus.shakespeare()) == 'fetched'


def test_pydoc_is_described_with_its_digest() -> None:
  documents = [''.join(iterate_blocks([one])) for one in corpus.pydoc().train]
  text, sizes = ''.join(documents), [len(one) for one in documents]
  found = hashlib.sha256(f'{text}{sizes}'.encode()).hexdigest()
  data = Text().load()
  assert data.digest == found
  begin = f'pydoc: {len(text):,} chars, {len(set(text))} symbols, '
  assert data.description.startswith(begin)
  assert data.description.endswith(f', sha256 {found[:12]}')
  assert len(text) > 100_000


# Pins: the same on every version of JAX. --------------------------------------

TINY = {'seq_len': '8', 'batch_size': '4', 'd_model': '8', 'num_heads': '2'}


def _tiny(task: Text, init: str) -> Config:
  made = override(
    dataclasses.replace(Config(), task=task), TINY | {'init': init}
  )
  assert isinstance(made, Config)
  return made


def test_data_order_is_pinned(counted: tuple[Text, Data]) -> None:
  task, data = counted
  arrays = {name: jnp.asarray(ids) for name, ids in data.arrays.items()}
  total = hashlib.sha256()
  for step in (0, 1, 1000):
    batch = batch_of(_tiny(task, 'gpt2'), arrays, jnp.int32(step))
    total.update(np.asarray(batch.inputs.tokens_BT, '<i4').tobytes())
    total.update(np.asarray(batch.targets_BT, '<i4').tobytes())
    total.update(np.asarray(batch.ids_B, '<i4').tobytes())
  assert total.hexdigest()[:16] == 'b70cd79e30ea6f03'


def test_keys_are_pinned() -> None:
  key = key_of('embedding/token', key_of('init', jax.random.key(0)))
  bits = np.asarray(jax.random.bits(key, (4,)))
  assert bits.tolist() == [746896207, 2046449389, 3363075977, 1225930589]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('init', 'coarse', 'exact'),
  [
    ('gpt2', '47f24eaf16650db5', '672e31791950050a'),
    ('xavier', 'ab190873edbf5db4', '93778514a878cda6'),
  ],
)
def test_initial_values_are_pinned(
  counted: tuple[Text, Data], init: str, coarse: str, exact: str
) -> None:
  task, data = counted
  made = _tiny(task, init)
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    params = init_state(made, made.dims(data.vocabulary.size)).params
  total = hashlib.sha256()
  for path, array in sorted(flatten(params).items()):
    # To 0.003: the last bits are those of a processor's multiply-add.
    total.update(f'{path} {array.shape}'.encode())
    total.update(np.rint(300 * np.asarray(array)).astype('<i4').tobytes())
  assert total.hexdigest()[:16] == coarse
  if _fuses():
    assert digest(params)[:16] == exact


def _fuses() -> bool:
  """True on x86 with fused multiply-add, where the last bits were recorded."""
  info = pathlib.Path('/proc/cpuinfo')
  if platform.machine() != 'x86_64' or not info.exists():
    return False
  return ' fma ' in info.read_text()
