"""Mixtures of experts in training: every layout gives the same, and balance."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.core.inputs import ModelInputs
from model.core.side_output import totals
from model.layers.balance import (
  BatchBalance,
  BiasBalance,
  NoBalance,
  SequenceBalance,
)
from model.layers.moe import Moe
from train.config.config import Config
from train.core.trees import flatten
from train.optim.objective import CrossEntropy, ZLoss
from train.optim.optimizer import Optimization
from train.optim.sgd import Sgd
from train.programs.state import init_state
from train.programs.step import train_step
from train.tasks.base import Batch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compilation')]

EXPERTS, LENGTH = 8, 12
ARCH = Architecture(num_layers=2, d_model=8, num_heads=2)


def config_of(balance: Any, microbatches: int = 1, rate: float = 0.1) -> Config:
  moe = Moe(EXPERTS, 2, activation='relu', width=4, balance=balance)
  return Config(
    seq_len=LENGTH,
    batch_size=4,
    microbatches=microbatches,
    architecture=dataclasses.replace(ARCH, feedforward=moe),
    objective=(CrossEntropy(), ZLoss(1e-2)),
    optimization=Optimization(
      learning_rate=rate,
      warmup_steps=0,
      optimizer=Sgd(),
      weight_decay=0.0,
      clip=None,
    ),
  )


def batch_of(step: int = 0, size: int = 4) -> Batch:
  rng = np.random.default_rng(step)
  tokens_BT = rng.integers(0, 7, (size, LENGTH + 1))
  weights_BT = np.ones((size, LENGTH), np.float32)
  weights_BT[1, 5:] = 0.0
  return Batch(
    ModelInputs(jnp.asarray(tokens_BT[:, :-1])),
    jnp.asarray(tokens_BT[:, 1:]),
    jnp.asarray(weights_BT),
    jnp.arange(size),
  )


def after(config: Config, shares: int = 1) -> tuple[dict[str, Any], Any]:
  """Returns parameters after a step, and its figures, on so many devices."""
  dims = config.dims(7)
  state, batch = init_state(config, dims), batch_of()

  def one(part: Batch) -> Any:
    axis = 'devices' if shares > 1 else None
    return train_step(config, dims, state, part, axis)

  if shares == 1:
    new, metrics = jax.jit(one)(batch)
    return flatten(new.params), metrics
  parts = jax.tree.map(lambda x: x.reshape(shares, -1, *x.shape[1:]), batch)
  # Named axes of vmap add up as devices do.
  new, metrics = jax.jit(jax.vmap(one, axis_name='devices'))(parts)
  return jax.tree.map(lambda x: x[0], (flatten(new.params), metrics))


def assert_same(one: Any, other: Any) -> None:
  for path, value in one.items():
    np.testing.assert_allclose(other[path], value, atol=2e-6, err_msg=path)


@pytest.mark.parametrize(
  'balance',
  [SequenceBalance(0.5), BiasBalance(0.1), NoBalance()],
  ids=lambda b: b.tag,
)
def test_microbatches_and_devices_give_the_same(balance: Any) -> None:
  whole, figures = after(config_of(balance))
  parts, metrics = after(config_of(balance, microbatches=2))
  assert_same(whole, parts)
  assert float(metrics.loss) == pytest.approx(float(figures.loss), rel=1e-5)
  shared, metrics = after(config_of(balance), shares=2)
  assert_same(whole, shared)
  assert float(metrics.loss) == pytest.approx(float(figures.loss), rel=1e-5)


def test_a_penalty_of_the_batch_is_summed_across_devices() -> None:
  whole, figures = after(config_of(BatchBalance(0.5)))
  shared, metrics = after(config_of(BatchBalance(0.5)), shares=2)
  assert_same(whole, shared)
  assert float(metrics.loss) == pytest.approx(float(figures.loss), rel=1e-5)
  alone, _ = after(config_of(NoBalance()))
  moved = np.abs(
    alone['blocks/feedforward/router'] - whole['blocks/feedforward/router']
  )
  assert moved.max() > 1e-4


def test_the_bias_evens_the_load_without_a_penalty() -> None:
  """No parameter learns: the bias alone brings the load to the mean."""
  found = {}
  for balance in (NoBalance(), BiasBalance(0.002)):
    config = config_of(balance, rate=1e-12)
    dims = config.dims(7)
    state = init_state(config, dims)
    # A router that starts out uneven.
    own = state.params['blocks']['feedforward']
    tilt_E = jnp.linspace(-1.0, 1.0, EXPERTS)
    own = {**own, 'router': own['router'] * 5 + 0.05 * tilt_E}
    params = {
      **state.params,
      'blocks': {**state.params['blocks'], 'feedforward': own},
    }
    state = state._replace(params=params)
    step = jax.jit(
      lambda state, batch, config=config, dims=dims: train_step(
        config, dims, state, batch, None
      )
    )
    for n in range(80):
      state, _ = step(state, batch_of(n))
    out = transformer.apply(
      config.architecture, dims, state.params, batch_of(99, 64).inputs
    )
    figures = config.architecture.figures(totals(out.aux))
    found[balance.tag] = figures['router_imbalance']
    has_bias = 'blocks/feedforward/choice_bias' in flatten(state.params)
    assert has_bias == isinstance(balance, BiasBalance)
  assert found['none'] > 1.0
  assert found['bias'] < 0.5 * found['none']
