"""Trials side by side: each lane is the trial alone, whatever its neighbours.

`lax.map` and, without dropout, one lane a device with layers in a scan leave
every bit as it is alone; `vmap`, and one lane a device with dropout or layers
one after another (the compiler then fuses otherwise), agree to rounding.  A
neighbour that ends, diverges, or is not there changes no bit in any layout.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from experiments.planning import layout as layouts
from helpers import alone
from helpers.lanes import (
  EXACT,
  LAYOUTS,
  TINY,
  assert_near,
  data,
  layout_of,
  run,
  timeless,
  trials,
)
from model.core.field import FieldError, variants
from session.compilations import Compilations
from spec.others import others_slow
from train import loop
from train.config.config import Config
from train.core.trees import flatten
from train.devices.parallel import (
  parse_layout,
  to_host,
)
from train.files.durable import digest, read_intact_lines
from train.flags.schema import override
from train.inference.load import load
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import TrainState, init_state
from train.tasks.base import Task
from train.timing import seconds_per_step
from train.trial import Interrupted, Options, Result, Trial, TrialOutcome

NUMBERS = [
  {'seed': '0'},
  {'seed': '1', 'learning_rate': '3e-3', 'weight_decay': '0.3'},
  {'seed': '2', 'steps': '5', 'init.std': '0.1', 'optimizer.b2': '0.9'},
]


@pytest.fixture(scope='module')
def solo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
  """Returns the results of the trials, one after another."""
  return run(trials(tmp_path_factory.mktemp('solo'), NUMBERS), 'shared:1')


@pytest.mark.slow
@pytest.mark.parametrize('text', others_slow(LAYOUTS, ['devices:2', 'vmap:2']))
def test_a_lane_is_the_trial_alone(
  text: str, solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """Three trials over two or four lanes: one waits, or a lane is idle."""
  results = run(trials(tmp_path, NUMBERS), text)
  assert set(results) == set(solo)
  for name, result in results.items():
    if text in EXACT:
      assert timeless(result) == timeless(solo[name])
    else:
      assert_near(result, solo[name])


@pytest.mark.slow
@pytest.mark.parametrize(
  'own',
  [
    {'dropout_attention': '0.2', 'dropout_residual': '0.1'},
    {'scan_layers': 'false'},
  ],
  ids=['dropout', 'unrolled'],
)
def test_a_lane_that_is_compiled_otherwise_is_near_the_trial_alone(
  own: dict[str, str], tmp_path: pathlib.Path
) -> None:
  """Masks of dropout are the same; the compiler fuses their division otherwise.

  So it does with layers that stand one after another.
  """
  changes = [{'seed': seed, **own} for seed in '01']
  expected = run(trials(tmp_path / 'alone', changes), 'shared:1')
  for text in ('devices:2', 'vmap:2'):
    results = run(trials(tmp_path / text, changes), text)
    for name, result in results.items():
      assert_near(result, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize('text', ['devices:2', 'vmap:2'])
def test_a_lane_driven_to_nan_leaves_its_neighbours(
  text: str, tmp_path: pathlib.Path
) -> None:
  """The neighbour's bytes are those beside a lane that stays finite."""
  bytes_of = {}
  for name, rate in (('calm', '1e-2'), ('wild', '1e30')):
    mine = trials(
      tmp_path / name,
      [{'seed': '0'}, {'seed': '1', 'learning_rate': rate, 'clip': '1e30'}],
    )
    results = run(mine, text)
    bytes_of[name] = results['0'].digest
    assert results['1'].status == ('ok' if name == 'calm' else 'diverged')
    lines = read_intact_lines(mine[0].directory / 'metrics.jsonl')
    assert [line['step'] for line in lines if 'loss' in line] == list(
      range(1, 10)
    )
  assert bytes_of['calm'] == bytes_of['wild']
  diverged = load(tmp_path / 'wild', '1')
  assert all(np.isfinite(p).all() for p in flatten(diverged.params).values())


@pytest.mark.slow
def test_a_group_goes_on_where_each_lane_stands(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """One lane is further than the other when the group goes on."""
  mine = trials(tmp_path, NUMBERS[:2])
  for n, until in ((0, 4), (1, 2)):
    with pytest.raises(Interrupted):
      alone.run(
        mine[n], Options(), layout_of('shared:1'), alone.Listener(until)
      )
  results = run(mine, 'devices:2')
  for name, result in results.items():
    assert timeless(result) == timeless(solo[name])


@pytest.mark.slow
def test_the_next_trial_takes_the_lane_of_one_that_diverged(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """No lane idles while trials wait, and the number of lanes stays."""
  wild = {'seed': '1', 'learning_rate': '1e30', 'steps': '400'}
  mine = trials(tmp_path, [wild, *NUMBERS])
  together = list[set[str]]()

  class Listener(alone.Listener):
    def end(self, trial: Trial, outcome: TrialOutcome) -> None:
      together.append(set(self.begun) - set(self.outcomes))
      super().end(trial, outcome)

  listener = Listener()
  loop.run(iter(mine), Options(log_every=1), layout_of('devices:2'), listener)
  results = listener.results
  assert results['0'].status == 'diverged'
  assert results['0'].steps < 9
  assert all(len(pair) <= 2 for pair in together)
  for n, expected in enumerate(solo.values()):
    assert timeless(results[str(n + 1)]) == timeless(expected)


@pytest.mark.slow
def test_a_pause_changes_nothing(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """A trial that pauses twice ends as one that never does."""
  mine = trials(tmp_path, NUMBERS[:2])
  for pause in (4, 8):
    paused = run([dataclasses.replace(t, pause=pause) for t in mine], 'map:2')
    assert {r.status for r in paused.values()} == {'paused'}
    assert {r.steps for r in paused.values()} == {pause}
    again = run([dataclasses.replace(t, pause=pause) for t in mine], 'map:2')
    assert all(timeless(again[n]) == timeless(paused[n]) for n in paused)
  for name, result in run(mine, 'devices:2').items():
    assert timeless(result) == timeless(solo[name])


def test_packing_is_undone() -> None:
  for text in ('shared:2', *LAYOUTS, 'devices:8'):
    layout = layout_of(text)
    trees = [
      {'a': np.full((2, 3), n), 'b': np.int32(n)} for n in range(layout.lanes)
    ]
    for before, after in zip(
      trees, layout.unpack(layout.pack(trees)), strict=True
    ):
      assert jax.tree.all(
        jax.tree.map(lambda x, y: np.array_equal(x, y), before, after)
      )
    assert layout_of(layout.text) == layout


@pytest.mark.slow
@pytest.mark.parametrize('text', ['devices:2', 'vmap:2', 'shared:2'])
def test_one_compilation_serves_all_calls(
  text: str, compiled: Compilations
) -> None:
  """State enters with the sharding that it leaves with, or step 2 compiles."""
  layout = layout_of(text)
  (mine,) = trials(pathlib.Path('unused'), NUMBERS[:1])
  sig, values = signature(mine.config, data(), layout)
  get_program.cache_clear()
  chunk = get_program(sig).chunk
  lanes = layout.lanes
  state: TrainState = layout.pack([init_state(mine.config, sig.dims)] * lanes)
  packed = layout.pack([values] * lanes)
  arrays = layout.place(dict(data().arrays))
  for stop in (0, 2, 3, 7):
    before = len(compiled.names)
    stops = layout.pack([np.int32(stop)] * lanes)
    state, _ = chunk(state, packed, arrays, stops)
    jax.block_until_ready(state)
    new = compiled.names[before:]
    assert bool(new) == (stop == 0), (stop, new)
  assert {digest(s.params) for s in layout.unpack(state)} == {
    digest(to_host(layout.unpack(state)[0].params))
  }


def test_layouts_are_named_and_refused() -> None:
  devices = jax.local_devices(backend='cpu')
  for text in (
    '',
    'solo',
    'vmap',
    'vmap:0',
    'vmap:2,map:2',
    'lanes:2',
    'vmap:x',
  ):
    with pytest.raises(ValueError, match='must be shared:N'):
      parse_layout(text, devices)
  with pytest.raises(ValueError, match='asks for 9 devices, and there are 8'):
    parse_layout('devices:9', devices)
  with pytest.raises(FieldError, match='--lanes=solo: must be shared:N'):
    layouts.layout_from_flags(Options(lanes='solo'), devices)


@pytest.mark.slow
def test_measuring_keeps_nothing(tmp_path: pathlib.Path) -> None:
  mine = trials(tmp_path, NUMBERS)
  for feed in ('device', 'host'):
    assert 0 < seconds_per_step(mine, layout_of('devices:2'), feed) < 10
  assert not (tmp_path / 'runs').exists()


# Every task. ------------------------------------------------------------------

OWN = {'mlm': {'task.path': 'text'}, 'regression': {'task.held': '8'}}
TASKS = {
  tag: {'task': tag, 'model': task.families[0].tag} | OWN.get(tag, {})
  for tag, task in variants(Task).items()
  if tag != 'text'
}


@pytest.mark.slow
@pytest.mark.parametrize('text', LAYOUTS)
@pytest.mark.parametrize('name', TASKS)
def test_a_lane_of_any_task_is_the_trial_alone(
  name: str,
  text: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Also where steps of different seeds have batches of different shapes."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text').write_text('the cat sat on the mat. ' * 40)
  for part, column in (('a', 'x'), ('b', 'y')):
    lines = [f'{"the cat " * (n % 5)}{column}' for n in range(40)]
    (tmp_path / f'table.{part}').write_text('\n'.join(lines) + '\n')
  table = {'task.data': 'lines', 'task.data.suffixes': 'a,b'}
  table['task.data.train'] = 'table'
  flags = TINY | {'num_layers': '1'} | TASKS[name]
  if name in ('translation', 'classification'):
    flags |= table | {'task.buckets': '2'}
  if name == 'classification':
    (tmp_path / 'table.b').write_text('x\ny\n' * 20)
  made = [override(Config(), flags | own) for own in NUMBERS]
  given = made[0].task.load()

  def all_of(folder: str, layout: str) -> dict[str, Result]:
    mine = [
      Trial(str(n), config, tmp_path / folder / str(n), given)
      for n, config in enumerate(made)
    ]
    return run(mine, layout)

  alone_, lanes = all_of('solo', 'shared:1'), all_of('lanes', text)
  for trial, expected in alone_.items():
    if text in EXACT:
      assert timeless(lanes[trial]) == timeless(expected)
    else:
      assert_near(lanes[trial], expected)
