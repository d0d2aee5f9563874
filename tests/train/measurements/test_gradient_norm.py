"""Norms of gradients by layer: against a loss and loops of the test's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from train.config.config import Config
from train.flags.schema import override
from train.measurements.gradient_norm import GradientNorm
from train.probe import Probe
from train.programs.state import init_state
from train.tasks.base import spaced_examples
from train.tasks.generated.digits import Digits

FLAGS = {
  'task': 'digits',
  'model': 'encoder',
  'd_model': '8',
  'num_heads': '2',
  'num_layers': '3',
  'seq_len': '5',
  'measure': 'gradient_norm',
  'measure_examples': '2',
}


@pytest.mark.parametrize(
  ('of', 'pattern'),
  [
    (None, 'norm=layernorm;norm=rmsnorm'),
    ('feedforward/down', ''),
    ('attention', ''),
  ],
)
def test_each_layer_has_the_norm_of_its_gradient(
  of: str | None, pattern: str
) -> None:
  flags = FLAGS | ({'measure.of': of} if of else {})
  config = override(Config(), flags | ({'pattern': pattern} if pattern else {}))
  data = Digits().load()
  dims = config.sizes(data.vocabulary)
  params = jax.tree.map(np.asarray, init_state(config, dims).params)
  found = Probe(config, data, False).figures(params)

  ids_B = spaced_examples(config.task.num_held, 2, 1)
  batch = config.task.evaluation_batch(dict(data.arrays), ids_B, 5)

  def loss(own: dict) -> jax.Array:
    inputs = ModelInputs(batch.inputs.tokens_BT)
    out = transformer.apply(config.architecture, dims, own, inputs)
    logs_BTV = out.logits_BTV - jax.nn.logsumexp(out.logits_BTV, -1)[..., None]
    rows_BT1 = jnp.asarray(batch.targets_BT)[..., None]
    return -jnp.take_along_axis(logs_BTV, rows_BT1, -1).mean()

  gradients = jax.grad(loss)(params)
  squares = np.zeros(3)
  for n in range(3):
    name, at = (f'blocks_{n % 2}', n // 2) if pattern else ('blocks', n)
    part = gradients[name]
    for key in of.split('/') if of else ():
      part = part[key]
    for leaf in jax.tree.leaves(part):
      squares[n] += sum(float(x) ** 2 for x in np.ravel(leaf[at]))
  for n in range(3):
    np.testing.assert_allclose(
      found[f'gradient_norm@{n}'], squares[n] ** 0.5, rtol=1e-4
    )
  assert found['gradient_norm'] == found['gradient_norm@2']


def test_a_part_that_no_layer_has_is_refused() -> None:
  arch = override(Config(), FLAGS).architecture
  assert GradientNorm('attention').problem(arch) is None
  error = GradientNorm('feedforward/dow').problem(arch)
  assert isinstance(error, FieldError)
  assert '--measure.of=feedforward/dow' in str(error)
  assert 'feedforward/down' in str(error)
