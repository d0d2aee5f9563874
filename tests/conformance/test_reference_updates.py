"""Updates of the parameters equal their float64 loops."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.core.parameter import Param, ParamRole
from spec import reference
from spec.architectures import examples, unions
from spec.tolerance import assert_close
from spec.units import MOVED, stacked
from train.core.trees import flatten, unflatten
from train.optim.average import UpdateTime
from train.optim.base import UpdateContext
from train.optim.group import Group
from train.optim.lookahead import Lookahead
from train.optim.muon import Muon
from train.optim.optimizer import Optimization
from train.optim.schedule import ConstantRate
from train.optim.sphere import Sphere

pytestmark = pytest.mark.usefixtures('quick_compilation')

TABLE = MOVED | {'blocks/moe/bias': Param('->E', (2,), ParamRole.STATE, 2)}
UPDATES = {
  'default': Optimization(warmup_steps=2),
  'never clipped': Optimization(clip=None, warmup_steps=0),
  'decay of all': Optimization(decay='all', weight_decay=0.5),
  'no decay': Optimization(weight_decay=0.0, clip=100.0),
  'frozen': Optimization(freeze='^embedding/|query', decay='all'),
  'frozen sphere': Optimization(
    freeze='^embedding/|query', after_update=(Sphere(), Lookahead(2))
  ),
  'frozen muon': Optimization(
    freeze='^embedding/|query', optimizer=Muon(), learning_rate=0.05
  ),
  'groups': Optimization(
    optimizer=Muon(adam_rate=0.01),
    learning_rate=0.05,
    warmup_steps=2,
    groups=(
      Group('query|token', 0.5, warmup_steps=0),
      Group('kind=scale|matrix', 2.0, 0.3, schedule=ConstantRate()),
      Group('attention', weight_decay=0.0),
    ),
  ),
  'group of all': Optimization(groups=(Group('.', 0.3, 0.7, 1),)),
} | {
  f'{field}-{tag}': dataclasses.replace(
    Optimization(learning_rate=0.05, warmup_steps=2),
    **{field: (variant,) if field == 'after_update' else variant},
  )
  for field, choices in unions(Optimization).items()
  for tag, cls in choices.items()
  for variant in examples(cls)[-1:]
}


@pytest.mark.parametrize('name', UPDATES)
def test_update_equals_its_loops(name: str) -> None:
  optimization, total, steps = UPDATES[name], 6, 5
  params = {path: x / 2 for path, x in stacked(TABLE, 0).items()}
  frozen = optimization.frozen(TABLE)
  grads = [stacked(TABLE, 9 + n) for n in range(steps)]
  grads[1] = {path: g / 50 for path, g in grads[1].items()}  # below the clip
  expected = reference.optimize(optimization, TABLE, params, grads, total)
  with jax.enable_x64(True):

    @jax.jit
    def run(params: Any, grads: list[Any]) -> Any:
      transform = optimization.transform(TABLE, jnp.asarray(total))
      params, kept = optimization.start(TABLE, params)
      state = transform.init(params)
      for step, given in enumerate(grads):
        updates, state = transform.update(given, state, params)
        at = UpdateTime(jnp.asarray(step + 1), jnp.asarray(total), 3)
        moved = optax.apply_updates(params, updates)
        now = UpdateContext(TABLE, moved, {}, at)
        params, kept = optimization.after(kept, params, now)
      return params

    # train/programs/step.py stops the gradients of what is not trained.
    held = optimization.untrained(TABLE)
    stopped = [
      {p: np.zeros_like(g) if p in held else g for p, g in given.items()}
      for given in grads
    ]
    actual = flatten(
      run(unflatten(params), [unflatten(given) for given in stopped])
    )
  assert set(actual) == set(TABLE)
  for path, values in expected.items():
    # The step count is int32, so the learning rate is float32 whatever x64.
    moved = (np.asarray(actual[path]) - params[path]).astype(np.float32)
    assert_close(moved, values - params[path], steps)
  for path in (*frozen, 'blocks/moe/bias'):
    np.testing.assert_array_equal(actual[path], params[path])
