"""How sharp attention is: against loops over single queries, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.questions.softmax_scale import (
  BASELINES,
  HEAD_WIDTHS,
  KEYS,
  expected,
)
from model import transformer
from model.core.inputs import ModelInputs
from model.core.side_output import ATTENTION_MAPS
from spec.reference.measurements import Inside
from spec.reference.measurements import attention as reference_of
from spec.reference.measurements import sharpness as sharpness_of
from train.config.config import Config
from train.flags.schema import override
from train.measurements.attention import ENTROPY, SLOPE, sharpness
from train.probe import Probe
from train.programs.state import init_state
from train.tasks.base import spaced_examples
from train.tasks.generated.most_frequent import MostFrequent

FLAGS = {
  'task': 'most_frequent',
  'model': 'classifier',
  'd_model': '8',
  'num_heads': '2',
  'num_layers': '2',
  'seq_len': '6',
  'init.std': '1',
  'measure': 'attention',
  'measure_examples': '3',
}


def test_each_query_equals_its_loop() -> None:
  """One sees no key, one a single key, one has a weight below 0."""
  rng = np.random.default_rng(0)
  weights_LBNTS = rng.exponential(1.0, (2, 1, 2, 3, 4)) ** 3
  weights_LBNTS[0, 0, 0, 0] = 0.0
  weights_LBNTS[1, 0, 1, 2] = [0, 2, 0, 0]
  weights_LBNTS[1, 0, 0, 1, 3] = -0.5
  with jax.enable_x64(True):
    found = sharpness(jnp.asarray(weights_LBNTS))
  for metric, x_LBNT in found.items():
    for at in np.ndindex(x_LBNT.shape):
      if at == (0, 0, 0, 0):
        assert np.isnan(x_LBNT[at])
        continue
      wanted = sharpness_of(weights_LBNTS[at])[metric.name]
      np.testing.assert_allclose(x_LBNT[at], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  'changes', [{}, {'output': 'talking_heads', 'mask': 'causal,exclude_self'}]
)
def test_a_model_is_measured_as_its_weights_are(
  changes: dict[str, str],
) -> None:
  """With weights that do not sum to 1, and a query that sees no key."""
  config, data = override(Config(), FLAGS | changes), MostFrequent().load()
  dims = config.sizes(data.vocabulary)
  params = jax.tree.map(np.asarray, init_state(config, dims).params)
  found = Probe(config, data, False).figures(params)
  ids_B = spaced_examples(config.task.num_held, 3, 1)
  batch = config.task.evaluation_batch(dict(data.arrays), ids_B, 6)
  with jax.enable_x64(True):
    out = transformer.apply(
      config.architecture,
      dims,
      jax.tree.map(lambda x: np.float64(x), params),
      ModelInputs(np.asarray(batch.inputs.tokens_BT)),
      wanted=ATTENTION_MAPS,
    )
    weights_LBNTS = np.asarray(out.weights_LBNTS)
  wanted = reference_of(
    None, Inside([], weights_LBNTS, np.ones(batch.inputs.tokens_BT.shape), {})
  )
  for name, x_L in wanted.layers.items():
    for layer, x in enumerate(x_L):
      np.testing.assert_allclose(
        found[f'{name}@{layer}'], x, rtol=1e-9, atol=1e-12
      )
    np.testing.assert_allclose(
      found[name], wanted.figures[name], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize('is_scaled', [False, True])
@pytest.mark.parametrize('width', HEAD_WIDTHS[:4])
def test_what_is_expected_is_that_of_drawn_queries_and_keys(
  width: int, is_scaled: bool
) -> None:
  """The baseline draws logits; here queries and keys are drawn."""
  rng = np.random.default_rng(1)
  rows = []
  for _ in range(500):
    q_H, k_SH = rng.standard_normal(width), rng.standard_normal((KEYS, width))
    logits_S = k_SH @ q_H * (width**-0.5 if is_scaled else 1.0)
    rows.append(sharpness_of(np.exp(logits_S - logits_S.max())))
  wanted = expected(width, is_scaled)
  entropy = np.mean([row[ENTROPY.name] for row in rows])
  slope = np.median([row[SLOPE.name] for row in rows])
  assert abs(entropy - wanted[ENTROPY.name]) < 0.1
  assert abs(slope - wanted[SLOPE.name]) < 0.02


def test_the_baselines_are_what_is_expected() -> None:
  for (width, is_scaled), values in BASELINES.items():
    found = expected(width, is_scaled)
    np.testing.assert_allclose([*found.values()], values, rtol=1e-9)
