"""Rows that the host reads: the same bits, wherever the data lie."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import alone
from model.core.field import FieldError
from train import host_feed as feed
from train import loop
from train.config.config import Config
from train.devices.parallel import Layout, parse_layout
from train.files.durable import read_intact_lines
from train.flags.schema import override
from train.host_feed import Feeding
from train.inference.load import TrainedTrial
from train.programs.batches import batch_of
from train.programs.state import init_state
from train.tasks.base import Batch, Data, spaced_examples
from train.tasks.long_arrays import HOST_BLOCK, ROWS, LongArrayTask, nth_batch
from train.tasks.texts.mlm import Mlm
from train.tasks.texts.text import Text
from train.trial import Interrupted, Options, Result, Trial

TINY = {
  'd_model': '16',
  'num_heads': '2',
  'num_layers': '1',
  'seq_len': '16',
  'batch_size': '4',
  'steps': '40',
  'eval_every': '7',
  'warmup_steps': '2',
  'learning_rate': '1e-2',
}
HOST = Options(feed='host', log_every=1)
DEVICE = Options(feed='device', log_every=1)
TASKS = [Text, Mlm]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  made = tmp_path_factory.mktemp('texts')
  for n in range(20):
    (made / f'{n}.txt').write_text(f'the {n}th cat sat on a mat. ' * n)
  return made


def config_of(
  folder: pathlib.Path,
  task: type[Text | Mlm] = Text,
  changes: Mapping[str, str] = MappingProxyType({}),
) -> Config:
  base = dataclasses.replace(Config(), task=task(path=str(folder)))
  if task is Mlm:
    base = override(base, {'model': 'encoder'})
  mask = 'segments' if task is Mlm else 'causal,segments'
  return override(base, TINY | {'mask': mask} | dict(changes))


def mapped(data: Data, where: pathlib.Path) -> Data:
  """Returns the same data, on the disk."""
  where.mkdir()
  arrays = {}
  for name, array in data.arrays.items():
    np.save(where / name, array)
    arrays[name] = np.load(where / f'{name}.npy', mmap_mode='r')
  return dataclasses.replace(data, arrays=arrays)


def layout_of(text: str) -> Layout:
  return parse_layout(text, jax.local_devices(backend='cpu'))


def same(a: Batch, b: Batch) -> None:
  left, right = jax.tree.leaves(a), jax.tree.leaves(b)
  assert len(left) == len(right) == 5
  for x, y in zip(left, right, strict=True):
    assert x.dtype == y.dtype
    assert np.array_equal(x, y)


# Which rows. ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_batches_are_those_of_the_device(
  folder: pathlib.Path, tmp_path: pathlib.Path, task: type[Text | Mlm]
) -> None:
  config = config_of(folder, task, {'seed': '5'})
  data = config.task.load()
  arrays = {name: jnp.asarray(x) for name, x in data.arrays.items()}
  made = jax.jit(lambda arrays, step: batch_of(config, arrays, step))
  for number in (0, 3, 5000):
    rows = feed.read_block(config, mapped(data, tmp_path / str(number)), number)
    assert not rows.keys() & Text.long
    for step in range(number * HOST_BLOCK, (number + 1) * HOST_BLOCK):
      own = nth_batch(rows, step % HOST_BLOCK)
      same(made(own, step), made(arrays, step))


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_evaluation_batches_are_those_of_the_device(
  folder: pathlib.Path, task: type[Text | Mlm]
) -> None:
  # Of 667 tokens, of which a language model cannot predict the first.
  available = 42
  for wanted in (None, '5', '1'):
    config = config_of(folder, task, {'eval_examples': wanted or 'none'})
    data = config.task.load()
    assert config.task.evaluation_size(data.arrays, 16) == available
    arrays = {name: jnp.asarray(x) for name, x in data.arrays.items()}
    ids = spaced_examples(available, int(wanted or available), 4).reshape(-1, 4)
    whole = feed.validation_batches(config, data)
    for n in range(len(ids)):
      ids_B = jnp.asarray(ids[n])
      same(
        config.task.evaluation_batch(nth_batch(whole, n), ids_B, 16),
        config.task.evaluation_batch(arrays, ids_B, 16),
      )


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_have_parts_of_one_batch(
  folder: pathlib.Path, hosts: int
) -> None:
  config = config_of(folder, Text)
  data = config.task.load()
  parts = [
    feed.read_block(config, data, 3, host, hosts)[ROWS] for host in range(hosts)
  ]
  assert {x.shape[1] for x in jax.tree.leaves(parts)} == {4 // hosts}
  whole = feed.read_block(config, data, 3)[ROWS]
  joined = jax.tree.map(lambda *x: np.concatenate(x, 1), *parts)
  jax.tree.map(np.testing.assert_array_equal, joined, whole)


# The loop. --------------------------------------------------------------------


def run(
  config: Config,
  workdir: pathlib.Path,
  layout: str,
  options: Options,
  changes: Sequence[dict[str, str]],
) -> list[Result]:
  """Returns the results of trials, some of which wait for a lane."""
  data = config.task.load()
  trials = [
    Trial(str(n), override(config, own), workdir / str(n), data)
    for n, own in enumerate(changes)
  ]
  listener = alone.Listener()
  loop.run(iter(trials), options, layout_of(layout), listener)
  return [listener.results[t.id]._replace(clock={}) for t in trials]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('layout', 'task'),
  [
    ('shared:2', Text),
    *(
      pytest.param(layout, task, marks=pytest.mark.slow)
      for layout, task in [
        ('shared:1', Text),
        ('shared:4', Text),
        ('vmap:2', Text),
        ('devices:2', Text),
        ('map:2', Text),
        ('shared:1', Mlm),
        ('vmap:2', Mlm),
      ]
    ),
  ],
)
def test_who_reads_changes_no_bit(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  layout: str,
  task: type[Text | Mlm],
) -> None:
  config = config_of(folder, task)
  changes = [{}, {'seed': '1', 'steps': '21'}, {'seed': '2', 'steps': '33'}]
  if layout.startswith('shared'):
    changes = changes[:1]
  known = run(config, tmp_path / 'device', layout, DEVICE, changes)
  assert known == run(config, tmp_path / 'host', layout, HOST, changes)
  for n in range(len(changes)):
    for name in ('metrics.jsonl', 'sample.json', 'attention.npz'):
      files = [tmp_path / who / str(n) / name for who in ('device', 'host')]
      assert files[0].exists() == files[1].exists()
      if files[0].exists():
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_resuming_changes_no_bit(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = config_of(folder)
  trial = Trial('x', config, tmp_path / 'x', config.task.load())
  asked = iter([False, False, True])

  class Listener(alone.Listener):
    def stop_requested(self) -> bool:
      return next(asked)

  with pytest.raises(Interrupted):
    alone.run(trial, HOST, layout_of('shared:1'), Listener())
  lines = read_intact_lines(trial.directory / 'metrics.jsonl')
  done = [line['step'] for line in lines]
  assert 0 < max(done) < 40
  assert max(done) % HOST_BLOCK
  second = alone.run(trial, HOST, layout_of('shared:1'))
  whole = dataclasses.replace(trial, directory=tmp_path / 'whole')
  first = alone.run(whole, DEVICE, layout_of('shared:1'))
  assert second._replace(clock={}) == first._replace(clock={})


# Texts that no device holds. --------------------------------------------------


def resident(path: pathlib.Path) -> int:
  """Returns how many bytes of a mapped file are in memory."""
  maps = pathlib.Path('/proc/self/smaps').read_text()
  found = re.findall(rf'{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB', maps)
  assert found
  return sum(map(int, found)) * 1024


@pytest.mark.slow
@pytest.mark.skipif(
  not pathlib.Path('/proc/self/smaps').exists(), reason='needs /proc'
)
def test_of_a_huge_text_only_the_rows_are_read(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """More tokens than 32 bits count, in a file with holes that takes no room."""
  config = config_of(
    folder, Text, {'steps': '3', 'eval_every': '3', 'eval_examples': '5'}
  )
  data = config.task.load()
  path, count = tmp_path / 'ids.bin', 2**31 + 2**20
  with path.open('wb') as f:
    f.truncate(2 * count)
  ids_X = np.memmap(path, np.uint16, 'r')
  starts_X = np.array([0, 2**31 + 5])
  arrays = {'train': ids_X, 'train_starts': starts_X}
  huge = dataclasses.replace(data, arrays={**data.arrays, **arrays})
  (cpu,) = jax.local_devices(backend='cpu')[:1]
  assert feed.is_host_fed(config, huge, None, cpu)
  with pytest.raises(
    FieldError, match=r'--feed=device: cannot index more than 2\^31'
  ):
    feed.check_feed(config, huge, 'device', cpu)
  trial = Trial('huge', config, tmp_path / 'huge', huge)
  result = alone.run(trial, Options(), layout_of('shared:1'))
  assert (result.status, result.steps) == ('ok', 3)
  assert resident(path) < 2**27


def test_offsets_beyond_32_bits_are_spread_evenly(folder: pathlib.Path) -> None:
  class Recorder(np.ndarray[Any, Any]):
    """Tokens that are their own positions."""

    shape = (2**33,)

    def __getitem__(self, index: Any) -> Any:
      return index

  config = config_of(folder)
  task = config.task
  assert isinstance(task, LongArrayTask)
  arrays = {'train': np.zeros(0, np.int64).view(Recorder)}
  rows = task.rows(arrays, jax.random.key(3), np.arange(1000), 16)
  first = rows.tokens_BT[:, 0]
  assert first.dtype == np.int64
  assert np.array_equal(rows.tokens_BT, first[:, None] + np.arange(17))
  counts, _ = np.histogram(first, 8, (0, 2**33 - 16))
  # Five standard deviations of a count of 125.
  assert np.abs(counts - 125).max() < 5 * np.sqrt(125 * 7 / 8)
  assert len(np.unique(first)) == 1000


def test_large_texts_are_read_by_the_host(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  @dataclasses.dataclass
  class Gpu:
    limit: int

    def memory_stats(self) -> dict[str, int]:
      return {'bytes_limit': self.limit}

  config = config_of(folder)
  data = config.task.load()
  size = sum(x.nbytes for x in data.arrays.values())
  assert feed.is_host_fed(config, data, None, Gpu(4 * size - 4))
  assert not feed.is_host_fed(config, data, None, Gpu(4 * size))
  assert not feed.is_host_fed(config, data, 'device', Gpu(1))
  (cpu,) = jax.local_devices(backend='cpu')[:1]
  assert not feed.is_host_fed(config, data, None, cpu)
  monkeypatch.setattr(feed, 'DEFAULT_DATA_LIMIT', size - 1)
  assert feed.is_host_fed(config, data, None, cpu)


@pytest.mark.slow
def test_what_is_evaluated_on_must_fit(
  folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = config_of(folder)
  data = config.task.load()
  (cpu,) = jax.local_devices(backend='cpu')[:1]
  # A window is 17 tokens of a byte, the number of a document for each, and how
  # many of its targets other windows have.
  monkeypatch.setattr(feed, 'DEFAULT_DATA_LIMIT', (17 * 5 + 4) * 9)
  feed.check_feed(config, data, 'device', cpu)
  with pytest.raises(FieldError, match=r'42 windows .* --eval_examples=9$'):
    feed.check_feed(config, data, 'host', cpu)
  config = dataclasses.replace(config, eval_examples=9)
  feed.check_feed(config, data, 'host', cpu)
  # A trial that was trained reads a large text as one that trains.
  dims = config.sizes(data.vocabulary)
  params = init_state(config, dims).params
  loaded = TrainedTrial('x', config, data.vocabulary, params, 0, data.digest)
  fed = loaded.evaluate()
  monkeypatch.setattr(feed, 'DEFAULT_DATA_LIMIT', 2**30)
  assert fed == loaded.evaluate()


def test_a_task_without_rows_refuses_the_host() -> None:
  made = {'task': 'most_frequent', 'model': 'classifier'}
  config = override(Config(), made)
  data = config.task.load()
  (cpu,) = jax.local_devices(backend='cpu')[:1]
  feed.check_feed(config, data, None, cpu)
  refusal = r'--feed=host: the host reads no rows for --task=most_frequent'
  with pytest.raises(FieldError, match=refusal):
    feed.check_feed(config, data, 'host', cpu)


# Who reads ahead. -------------------------------------------------------------


@pytest.mark.parametrize('how', ['host', 'grain'])
def test_blocks_come_in_any_order(folder: pathlib.Path, how: Feeding) -> None:
  if how == 'grain':
    pytest.importorskip('grain')
  config = config_of(folder, Mlm, {'steps': '200'})
  data = config.task.load()
  ahead = feed.open_feed(config, data, how)
  # In order, twice the same, as after a resumption, and back; the last is 12.
  for number in (3, 4, 5, 5, 9, 10, 2, 12):
    found = ahead.block(number)
    want = feed.read_block(config, data, number)
    assert found.keys() == want.keys()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
      assert x.dtype == y.dtype
      assert np.array_equal(x, y)
  ahead.close()


def test_grain_changes_no_bit(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  pytest.importorskip('grain')
  config, changes = config_of(folder), [{}, {'seed': '1', 'steps': '21'}]
  found = [
    run(config, tmp_path / how, 'map:2', Options(feed=how), changes)
    for how in ('host', 'grain')
  ]
  assert found[0] == found[1]


def test_rows_are_drawn_where_there_is_no_cpu(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """As with JAX_PLATFORMS=cuda."""
  config = config_of(folder)
  data = config.task.load()
  want, there = feed.read_block(config, data, 1), jax.local_devices

  def devices(backend: str | None = None) -> list[Any]:
    if backend is not None:
      raise RuntimeError(f'Unknown backend {backend}')
    return there()

  monkeypatch.setattr(jax, 'local_devices', devices)
  found = feed.read_block(config, data, 1)
  assert jax.tree.all(jax.tree.map(np.array_equal, found, want))


def test_without_grain_one_line_says_what_to_install(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, 'grain', None)
  config = config_of(folder)
  (cpu,) = jax.local_devices(backend='cpu')[:1]
  refusal = r'^--feed=grain: needs grain: pip install -r requirements-grain\.t'
  with pytest.raises(FieldError, match=refusal):
    feed.check_feed(config, config.task.load(), 'grain', cpu)
