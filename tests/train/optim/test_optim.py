"""Optimisers over the parameter table, groups, and what follows an update.

That each computes what its paper says is in test_reference.py.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.planning.cost import cost
from experiments.rows.assignment import parse_assignments
from helpers import alone
from helpers.courses import (
  TINY,
  assert_same_bits,
  assert_same_course,
  config,
  course,
  cpus,
)
from helpers.lanes import EXACT, assert_near, layout_of, run, timeless, trials
from model.core.field import (
  FieldError,
  bind,
  field_types,
  split,
  variant_list,
  variants,
)
from model.core.parameter import Dims, Param, ParamRole, PartParams
from model.layers.norm import RmsNorm
from spec import covering
from spec.conformance import configured, described
from spec.families import packed
from spec.subject import dims_of
from train.config.config import Config
from train.core.paths import match_paths
from train.core.trees import flatten, unflatten
from train.devices.parallel import to_host
from train.flags.schema import override, to_flags
from train.optim.average import UpdateTime
from train.optim.base import UpdateContext, map_paths
from train.optim.optimizer import Optimization
from train.optim.sphere import Sphere
from train.programs.state import init_state
from train.trial import Interrupted, Options

pytestmark = pytest.mark.usefixtures('quick_compilation')

# All of it at once; what is frozen is a matrix.
RULES = {
  'optimizer': 'muon',
  'optimizer.factor': 'moonlight',
  'optimizer.adam_rate': '0.003',
  'learning_rate': '0.003',
  'groups': 'token: factor=0.5; kind=scale: weight_decay=0.2, warmup_steps=0',
  'after_update': 'lookahead,sphere',
  'after_update.k': '3',
  'freeze': 'attention/value$',
}
HELD = 'blocks/attention/value'
FULL = TINY | RULES | {'dropout_residual': '0.1'}


# One trial, however it is run. ------------------------------------------------


@pytest.mark.slow
def test_devices_and_micro_batches_change_nothing() -> None:
  one = course(config(FULL))
  assert_same_course(course(config(FULL), cpus(2)), one)
  assert_same_course(course(config(FULL | {'microbatches': '2'})), one)


@pytest.mark.slow
def test_chunks_are_one_course_on_the_sphere() -> None:
  made = config(FULL)
  start = to_host(init_state(made, made.dims(24)))
  one = course(made, stops=(1, 2, 5, 6)).state
  assert_same_bits(one, course(made, stops=(6,)).state)
  assert one.after is not None
  assert set(one.after) == {'lookahead'}
  slow = flatten(one.after['lookahead'])['blocks/attention/query']
  fast = flatten(one.params)['blocks/attention/query']
  # At a multiple of k they were one, of which the sphere made the other.
  np.testing.assert_allclose(
    fast, slow / np.linalg.norm(slow, axis=1, keepdims=True), rtol=1e-4
  )
  table = made.architecture.parameter_table(made.dims(24))
  drawn = flatten(transformer_start(made))
  for path, value in flatten(one.params).items():
    what = table[path]
    same = np.array_equal(value, flatten(start.params)[path])
    assert same == (path == HELD), path
    if path == HELD:
      np.testing.assert_array_equal(value, drawn[path])
    elif what.is_matrix:
      along = what.letters.index('D') + bool(what.depth)
      for p in (value, flatten(start.params)[path]):
        length = np.sqrt((np.asarray(p, np.float64) ** 2).sum(along))
        np.testing.assert_allclose(length, 1.0, rtol=1e-6)


def transformer_start(made: Config) -> Any:
  """Returns the initial values before anything changes them."""
  plain = dataclasses.replace(made, optimization=Optimization())
  return to_host(init_state(plain, made.dims(24)).params)


@pytest.mark.slow
def test_an_interruption_changes_nothing(tmp_path: pathlib.Path) -> None:
  (whole,) = trials(tmp_path / 'whole', [RULES])
  (parts,) = trials(tmp_path / 'parts', [RULES])
  expected = alone.run(whole, Options(), layout_of('shared:1'))
  for until in (2, 4):
    listener = alone.Listener(until)
    with pytest.raises(Interrupted):
      alone.run(parts, Options(), layout_of('shared:1'), listener)
  found = alone.run(parts, Options(), layout_of('shared:1'))
  assert timeless(found) == timeless(expected)


LANES = [
  RULES | {'seed': '0'},
  RULES
  | {
    'seed': '1',
    'optimizer.momentum': '0.8',
    'optimizer.adam_rate': '0.01',
    'groups': RULES['groups'].replace('0.5', '0.3').replace('0.2', '0.1'),
    'after_update.k': '2',
  },
]


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['vmap:2', 'devices:2'])
def test_a_lane_is_the_trial_alone(layout: str, tmp_path: pathlib.Path) -> None:
  """Numbers of the optimiser, of groups and of what follows are traced."""
  one, other = (override(Config(), TINY | own) for own in LANES)
  assert split(one)[0] == split(other)[0]
  solo = run(trials(tmp_path / 'solo', LANES), 'shared:1')
  found = run(trials(tmp_path / 'lanes', LANES), layout)
  for name, result in found.items():
    if layout in EXACT:
      assert timeless(result) == timeless(solo[name])
    else:
      assert_near(result, solo[name])


# State outside the gradient. --------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shifted(RmsNorm):
  """A norm whose output is shifted by a state."""

  def params(self, dims: Dims) -> dict[str, Param]:
    shift = Param('->D', (dims.d_model,), ParamRole.STATE)
    return {**super().params(dims), 'shift': shift}

  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    return super().apply(params, x_BTD) + params['shift']


@dataclasses.dataclass(frozen=True)
class Counting(Sphere):
  """Every state counts the updates; there must be side outputs to read."""

  def start(self, table: Any, params: Any) -> tuple[Any, Any]:
    assert HELD not in table
    return params, {'calls': jnp.zeros((), jnp.int32)}

  def after(self, state: Any, now: UpdateContext) -> tuple[Any, Any]:
    assert not now.aux
    assert HELD not in now.table

    def count(path: str, p: jax.Array) -> jax.Array:
      return (
        p + 0.01 if now.table.get(path, NOTHING).role is ParamRole.STATE else p
      )

    return map_paths(count, now.params), {'calls': state['calls'] + 1}


NOTHING = Param('->D', (1,), ParamRole.BIAS)


@pytest.mark.slow
def test_only_what_follows_an_update_changes_a_state() -> None:
  """It has no gradient, no decay, and no part in the gradient's norm."""
  flags = TINY | {'decay': 'all', 'freeze': HELD, 'norm': 'rmsnorm'}
  plain = config(flags)
  with_state = dataclasses.replace(plain.architecture, norm=Shifted())
  counted = dataclasses.replace(plain.optimization, after_update=(Counting(),))
  made = dataclasses.replace(plain, architecture=with_state)
  without, still = course(plain), course(made)
  # A state of 0 shifts nothing: training is as without one.
  np.testing.assert_allclose(
    still.metrics.grad_norm, without.metrics.grad_norm, rtol=1e-4
  )
  shifts = [path for path in flatten(still.state.params) if 'shift' in path]
  assert len(shifts) == 3
  assert not any(np.any(flatten(still.state.params)[path]) for path in shifts)
  moved = course(dataclasses.replace(made, optimization=counted))
  assert moved.metrics.grad_norm[0] == still.metrics.grad_norm[0]
  assert moved.metrics.loss[1] != still.metrics.loss[1]  # the model reads it
  assert moved.state.after is not None
  assert moved.state.after[Counting.tag]['calls'] == 8
  for path in shifts:
    found = flatten(moved.state.params)[path]
    np.testing.assert_allclose(found, 0.08, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Careless(Sphere):
  """It moves every parameter, the frozen among them."""

  def start(self, table: Any, params: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda p: p + 1, params), None

  def after(self, state: Any, now: UpdateContext) -> tuple[Any, Any]:
    return jax.tree.map(lambda p: p + 1, now.params), None


def test_what_is_frozen_stays_whatever_follows_an_update() -> None:
  table = {'a/w': Param('D->F', (1, 1), ParamRole.MATRIX), 'b/w': NOTHING}
  rules = Optimization(freeze='^a/', after_update=(Careless(),))
  zero = unflatten({path: np.zeros(what.shape) for path, what in table.items()})
  at = UpdateTime(jnp.asarray(1), jnp.asarray(9), 3)
  start, _ = rules.start(table, zero)
  after, _ = rules.after(None, zero, UpdateContext(table, zero, {}, at))
  for params in (start, after):
    assert not flatten(params)['a/w'].any()
    assert flatten(params)['b/w'].all()


# Every architecture. ----------------------------------------------------------


def _members(name: str) -> list[Any]:
  """Returns a member of each tag of a choice of the optimisation."""
  hint = field_types(Optimization)[name]
  return [cls() for cls in (variants(hint) or variant_list(hint)).values()]


@pytest.mark.slow
def test_every_optimiser_fits_every_architecture_or_says_why() -> None:
  """The shapes of parameters stay, whatever they are; no array is made."""
  each = [Optimization(optimizer=rule) for rule in _members('optimizer')]
  each += [
    Optimization(after_update=(rule,)) for rule in _members('after_update')
  ]
  fitting: dict[Optimization, int] = dict.fromkeys(each, 0)
  for row in covering.sample():
    made = configured(row, packed)
    table = made.architecture.parameter_table(dims_of(made))
    for rules in each:
      try:
        rules.check(table, steps=9)
      except FieldError:
        continue  # such as Muon of a model without a matrix in its blocks
      fitting[rules] += 1
      shapes, moved = _moved(rules, table)
      assert moved == shapes, described(row)
  assert min(fitting.values()) > 0.9 * len(covering.sample())


def _moved(rules: Optimization, table: Any) -> tuple[Any, Any]:
  """Returns the parameters before and after an update, as shapes."""
  shapes = unflatten({path: what.struct for path, what in table.items()})

  def move(params: Any) -> Any:
    params, kept = rules.start(table, params)
    transform = rules.transform(table, jnp.asarray(9))
    updates, _ = transform.update(params, transform.init(params), params)
    at = UpdateTime(jnp.asarray(1), jnp.asarray(9), 3)
    params = optax.apply_updates(params, updates)
    return rules.after(kept, params, UpdateContext(table, params, {}, at))[0]

  return shapes, jax.eval_shape(move, shapes)


# Groups. ----------------------------------------------------------------------


def test_groups_are_one_text_and_one_program() -> None:
  """Written without spaces, so that they may stand in a row."""
  text = ' kind=scale|bias : weight_decay = 0.1;token:factor=2, schedule=cosine'
  made = override(Config(), {'groups': text})
  canonical = (
    'kind=scale|bias:weight_decay=0.1;'
    'token:factor=2.0,schedule=cosine,schedule.final=0.1'
  )
  assert to_flags(made)['groups'] == canonical
  assert override(Config(), {'groups': canonical}) == made
  assert parse_assignments('ablate', f'groups={canonical} seq_len=3') == {
    'groups': canonical,
    'seq_len': '3',
  }
  other = override(Config(), {'groups': canonical.replace('2.0', '3.0')})
  static, values = split(other)
  assert static == split(made)[0]
  assert values['groups.1.factor'] == 3.0
  assert bind(static, values) == other
  assert to_flags(Config())['groups'] == 'none'


REFUSED = {
  'embeding/: factor=0.1': 'matches no parameter: there are embedding/token, ',
  'kind=scal: factor=2': 'kind must be one of embedding|matrix|residual|scale|'
  'bias|state; did you mean scale?',
  'kind=bias: factor=2': 'matches no parameter: there are embedding|scale|',
  '(: factor=2': 'is not a regular expression',
  'token: factr=2': 'factr is none of factor|weight_decay|warmup_steps|schedule'
  '|schedule.final; did you mean factor?',
  'token: factor=x': 'factor=x: must be a number',
  'token: factor=0': 'factor=0.0: moves nothing: say --freeze',
  'token: factor=1': 'factor=1.0: changes nothing',
  'token: weight_decay=-1': 'weight_decay=-1.0: must be at least 0.0',
  'token: factor=2, schedule.final=0.5': 'schedule.final=0.5: has no effect '
  'with --schedule=shared',
  ':': 'names no parameter: begin with a pattern or kind=KIND',
  ': factor=2': 'names no parameter',
  'token:': 'factor=1.0: changes nothing',
  'token': 'must be "WHICH: name=value, name=value; ..."',
  'token factor=2': 'must be "WHICH: name=value, name=value; ..."',
  'embedding: factor=2; token: factor=3': 'is left no parameter',
  'position: factor=2': 'matches only what is not trained',
}


@pytest.mark.parametrize('text', REFUSED)
def test_a_group_that_is_wrong_is_refused_by_its_rule(text: str) -> None:
  with pytest.raises(FieldError) as e:
    override(Config(), {'freeze': '^position/', 'groups': text})
  which = text.rpartition('; ')[2].partition(':')[0]
  assert str(e.value).startswith(f'--groups={which}')
  assert REFUSED[text] in str(e.value)
  assert '\n' not in str(e.value)


def test_of_many_paths_those_that_are_near_are_named() -> None:
  paths = ['embedding/token', *(f'blocks/{n}/query' for n in range(40))]
  with pytest.raises(FieldError) as e:
    match_paths('freeze', 'embeding', paths)
  assert 'there are embedding/token, ' in str(e.value)
  assert str(e.value).endswith('and 33 others')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (
      {'optimizer': 'muon', 'projections': 'raw', 'feedforward': 'none'},
      '--optimizer=muon: finds no matrix in a block that is trained',
    ),
    ({'optimizer': 'muon', 'freeze': '^blocks/'}, 'and would be Adam'),
    (
      {'optimizer': 'muon', 'optimizer.adam_rate': '0'},
      '--optimizer.adam_rate=0.0: moves nothing',
    ),
    (
      {'after_update': 'sphere', 'freeze': '^blocks/|^emb|^pos'},
      '--after_update=sphere: finds no matrix that is trained',
    ),
    ({'after_update': 'sphere,none'}, 'none has no effect beside others'),
    ({'after_update': 'sphere,sphere'}, 'must name each once'),
    (
      {'after_update': 'lookahead', 'after_update.k': '601'},
      '--after_update.k=601: must be at most --steps=600',
    ),
    (
      {'after_update': 'lookahead', 'after_update.share': '1'},
      '--after_update.share=1.0: has no effect',
    ),
  ],
)
def test_what_would_do_nothing_is_refused(
  flags: dict[str, str], message: str
) -> None:
  with pytest.raises(FieldError) as e:
    override(Config(), flags)
  assert message in str(e.value)


def test_a_group_that_is_rather_not_meant_is_warned_of() -> None:
  """As of the flags that all parameters share, in `test_idle.py`."""

  def said(group: str) -> list[str]:
    return override(Config(), {'groups': group}).warnings()

  assert said('token: factor=0.1') == []
  (line,) = said('token: warmup_steps=600')
  assert line.startswith('--groups=token:warmup_steps=600: its warm-up is no ')
  (line,) = said('token: weight_decay=1000')
  assert 'takes all of a parameter off in one step' in line


# What it costs. ---------------------------------------------------------------


def test_the_state_of_an_optimiser_is_read_from_it() -> None:
  """In copies of the parameters, beside one of them and one of gradients."""

  def copies(flags: dict[str, str]) -> float:
    found = cost(override(Config(), flags), vocab_size=65)
    gradients = found.state_bytes - found.checkpoint_bytes
    assert gradients == 4 * found.parameters
    return found.checkpoint_bytes / (4 * found.parameters) - 1

  assert copies({}) == pytest.approx(2, abs=1e-3)
  assert copies({'optimizer': 'sgd'}) == pytest.approx(1, abs=1e-3)
  assert copies({'average': 'ema'}) == pytest.approx(3, abs=1e-3)
  assert copies({'after_update': 'sphere'}) == pytest.approx(2, abs=1e-3)
  assert copies({'after_update': 'lookahead'}) == pytest.approx(3, abs=1e-3)
  made = override(Config(), {})
  arch = made.architecture
  table = arch.parameter_table(made.dims(65))
  inside = sum(
    what.struct.size
    for what in table.values()
    if what.depth and what.role in (ParamRole.MATRIX, ParamRole.RESIDUAL)
  )
  share = inside / cost(made, vocab_size=65).parameters
  assert 0.5 < share < 1
  assert copies({'optimizer': 'muon'}) == pytest.approx(2 - share, abs=1e-3)
