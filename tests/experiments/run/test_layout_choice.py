"""Which layout a run takes: as learned, as measured, or by rule."""

import dataclasses
import pathlib
import types
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments.planning import layout as layouts
from experiments.planning.cost import cost_on, trial_bytes
from experiments.run import layout_choice
from helpers.lanes import trials
from model.core.field import FieldError
from train.devices.parallel import LaneLayout, Layout, SharedLayout
from train.trial import Options, Trial

NUMBERS = [{'seed': '0'}, {'seed': '1'}, {'seed': '2'}]


@pytest.fixture
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """Gives the test a cache of its own, and makes measuring cost nothing."""
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(layout_choice, 'COMPILE_SECONDS', 0.0)
  monkeypatch.setattr(layout_choice, 'MEASURE_STEPS', 0)


def timed(
  monkeypatch: pytest.MonkeyPatch, figures: dict[str, float]
) -> list[str]:
  """Makes layouts take these seconds; returns those that were measured."""
  measured: list[str] = []

  def seconds(_: Sequence[Trial], layout: Layout, feed: object) -> float:
    del feed
    measured.append(layout.text)
    if figures[layout.text] == np.inf:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
    return figures[layout.text]

  monkeypatch.setattr(layout_choice, 'seconds_per_step', seconds)
  return measured


@pytest.mark.usefixtures('_own_cache')
def test_the_layout_is_measured_and_kept(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """In the workdir, which decides, and in the cache, for other workdirs."""
  mine = trials(tmp_path, NUMBERS)
  devices = jax.local_devices(backend='cpu')[:2]
  figures = {'shared:1': 3.0, 'devices:2': 2.0, 'vmap:2': 1.0}
  measured = timed(monkeypatch, figures)
  for n, best in enumerate(figures):
    figures[best] /= 10
    monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / f'cache{n}'))
    choice = layout_choice.choose_layout([mine], devices, Options())
    assert choice.layout.text == best
    assert choice.seconds == figures
    layouts.write_choice(tmp_path, choice)
    again = layouts.stored_layout(tmp_path, devices)
    assert again is not None
    assert again.layout == choice.layout
    count = len(measured)
    learned = layout_choice.choose_layout([mine], devices, Options())
    assert (learned.layout, learned.seconds) == (choice.layout, figures)
    assert len(measured) == count


@pytest.mark.usefixtures('_own_cache')
def test_layouts_are_measured_only_where_it_pays(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Two compilations must be a small share of what the trials take."""
  mine = trials(tmp_path, NUMBERS)
  devices = jax.local_devices(backend='cpu')[:2]
  measured = timed(monkeypatch, {'shared:1': 3.0, 'devices:2': 2.0})
  monkeypatch.setattr(layout_choice, 'COMPILE_SECONDS', 1.0)
  short = layout_choice.choose_layout([mine], devices, Options())
  assert (short.layout, short.seconds) == (LaneLayout((*devices,), 1), {})
  assert not measured
  every = {'shared:1': 3.0, 'devices:2': 2.0, 'vmap:2': 1.0}
  asked = timed(monkeypatch, every)
  whatever = layout_choice.choose_layout(
    [mine], devices, Options(lanes=layouts.MEASURED)
  )
  assert (whatever.layout.text, asked) == ('vmap:2', list(every))
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'empty'))
  measured = timed(monkeypatch, every)
  # 100 s in all: two layouts of three take 4 of the 5 s.
  work = sum(cost_on(t.config, t.data.vocabulary).flops for t in mine)
  monkeypatch.setattr(layout_choice, 'flops_per_second', lambda: work / 25.0)
  monkeypatch.setattr(layout_choice, 'COMPILE_SECONDS', 2.0)
  clock = iter([0.0, 0.0, 2.0, 4.0])
  stopwatch = types.SimpleNamespace(monotonic=lambda: next(clock))
  monkeypatch.setattr(layout_choice, 'time', stopwatch)
  chosen = layout_choice.choose_layout([mine], devices, Options())
  assert measured == ['shared:1', 'devices:2']
  assert chosen.layout.text == 'devices:2'


def test_workers_measure_nothing(tmp_path: pathlib.Path) -> None:
  options = Options(lanes=layouts.MEASURED)
  devices = jax.local_devices(backend='cpu')[:2]
  assert layouts.fixed_layout(options, 1, tmp_path, devices) is None
  with pytest.raises(FieldError, match=r'--lanes=measured: .*--workers'):
    layouts.fixed_layout(options, 2, tmp_path, devices)


@pytest.mark.usefixtures('_own_cache')
def test_a_lone_trial_may_take_all_cores(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Where that is faster, and where every batch can be shared."""
  (mine,) = trials(tmp_path, NUMBERS[:1])
  devices = jax.local_devices(backend='cpu')[:2]
  measured = timed(monkeypatch, {'shared:1': 2.0, 'shared:2': 1.0})
  odd = dataclasses.replace(
    mine, config=dataclasses.replace(mine.config, batch_size=3)
  )
  choice = layout_choice.choose_layout([[mine], [odd]], devices, Options())
  assert (choice.layout.text, measured) == ('shared:1', [])
  choice = layout_choice.choose_layout([[mine]], devices, Options())
  assert choice.layout.text == 'shared:2'
  monkeypatch.setattr(layout_choice, 'COMPILE_SECONDS', 1e9)
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'empty'))
  choice = layout_choice.choose_layout([[mine]], devices, Options())
  assert (choice.layout.text, choice.seconds) == ('shared:1', {})


class Accelerator(NamedTuple):
  """A device that is only asked what it is."""

  platform: str = 'gpu'
  device_kind: str = 'a card'
  bytes_limit: int = 2**40

  def memory_stats(self) -> dict[str, int]:
    return {'bytes_limit': self.bytes_limit}


@pytest.mark.usefixtures('_own_cache')
def test_lanes_of_an_accelerator(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The most that fit, without measuring if small; else ever fewer."""
  mine = trials(tmp_path, NUMBERS[:1]) * 12
  seconds = {'vmap:12': 2.0, 'vmap:6': 1.0, 'vmap:3': 3.0, 'shared:1': 9.0}
  measured = timed(monkeypatch, seconds)
  chosen = layout_choice.choose_layout([mine], [Accelerator()], Options())
  assert chosen.layout.text == 'vmap:6'
  assert measured == ['vmap:12', 'vmap:6', 'vmap:3']  # then it became slower
  monkeypatch.setattr(layout_choice, 'COMPILE_SECONDS', 1e9)
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'empty'))
  least = trial_bytes(mine[0].config, mine[0].data.vocabulary)
  for most, size, text in (
    (10**9, 2**40, 'vmap:12'),
    (10**9, 8 * least, 'vmap:6'),
    (10**9, 0, 'shared:1'),
    (0, 2**40, 'shared:1'),
  ):
    monkeypatch.setattr(layout_choice, 'MOST_UNMEASURED', most)
    card = Accelerator(bytes_limit=size)
    chosen = layout_choice.choose_layout([mine], [card], Options())
    assert (chosen.layout.text, chosen.seconds) == (text, {})
  lone = layout_choice.choose_layout([mine[:1]], [Accelerator()], Options())
  assert lone.layout.text == 'shared:1'


@pytest.mark.usefixtures('_own_cache')
def test_lanes_that_do_not_fit_in_memory_are_not_chosen(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  mine = trials(tmp_path, NUMBERS)
  devices = jax.local_devices(backend='cpu')[:2]
  timed(monkeypatch, {'shared:1': 1.0, 'devices:2': np.inf, 'vmap:2': np.inf})
  choice = layout_choice.choose_layout([mine], devices, Options())
  assert choice.layout == SharedLayout((devices[0],))
