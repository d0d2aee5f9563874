"""Every variant equals its float64 loop in `spec/reference/`.

The cases come from the unions, so a new member joins by being listed there,
and fails the collection of this file until `reference.REFERENCES` has it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.mask import allowed
from model.core.inputs import Positions, broadcast_positions
from model.core.parameter import ParamRole, key_of, param, sample
from spec import reference
from spec.architectures import BASE, dims_of, draws, examples, mask_lists, named
from spec.reference import REFERENCES
from spec.tolerance import assert_close, assert_exact
from spec.units import ALL, UNITS
from train.optim.objective import CrossEntropy, SquaredError, training_sums

pytestmark = pytest.mark.usefixtures('quick_compilation')


def place(union: str, name: str) -> str:
  """Returns where the loop of a member belongs, in `spec/reference/`."""
  if union == 'feedforward':
    return f'feedforwards/{name}.py'
  tables = [t for t, v in vars(reference).items() if v is REFERENCES.get(union)]
  return tables[0] if tables else 'REFERENCES'


def differences(known: Mapping[str, Any]) -> list[str]:
  """Returns members without a reference, and references without a member."""
  listed = {(field, tag) for field, tags in ALL.items() for tag in tags}
  written = {(field, tag) for field, tags in known.items() for tag in tags}
  return [
    *(
      f'--{f}={t} has no loop in {place(f, t)}'
      for f, t in sorted(listed - written)
    ),
    *(f'--{f}={t} is no variant' for f, t in sorted(written - listed)),
  ]


# At import, so that what has no specification does not even collect.
if differences(REFERENCES):
  raise LookupError(
    f'tests/spec/reference: {"; ".join(differences(REFERENCES))}: write it '
    'from the paper'
  )


def test_every_member_has_a_reference() -> None:
  assert not differences(REFERENCES)
  assert set(ALL) == {*UNITS, 'init'}, 'a union that no test of units looks at'
  partial = {**REFERENCES, 'scale': {'rsqrt': None, 'nonsense': None}}
  assert differences(partial) == [
    *(
      f'--scale={tag} has no loop in SCALES'
      for tag in ('constant', 'inverse', 'learned', 'logn', 'none')
    ),
    '--scale=nonsense is no variant',
  ]
  others = {t: f for t, f in REFERENCES['feedforward'].items() if t != 'moe'}
  partial = {**REFERENCES, 'feedforward': others}
  assert differences(partial) == [
    '--feedforward=moe has no loop in feedforwards/moe.py'
  ]


CASES = [
  pytest.param(field, variant, id=f'{field}-{named(variant)}')
  for field in UNITS
  for cls in ALL[field].values()
  for variant in examples(cls)
]


@pytest.mark.parametrize(('field', 'variant'), CASES)
def test_variant_equals_its_loop(field: str, variant: Any) -> None:
  def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)

  with jax.enable_x64(True):
    for actual, expected in UNITS[field](variant, double):
      assert_exact(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize(('field', 'variant'), CASES)
def test_variant_rounds_its_loop(field: str, variant: Any) -> None:
  """In float32, as it is trained."""

  def single(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)

  for actual, expected in UNITS[field](variant, single):
    assert_close(actual, expected, 64)


@pytest.mark.parametrize('init', list(ALL['init'].values()))
@pytest.mark.parametrize('kind', list(ParamRole))
def test_initial_values_have_the_distribution(
  init: type, kind: ParamRole
) -> None:
  """Kolmogorov-Smirnov, with a fixed key and a level of 1e-6."""
  (variant,) = examples(init)
  what = param('D->F', kind, dims_of(BASE), {'D': 32, 'F': 128})
  values = np.sort(
    np.ravel(sample(variant, key_of('a', jax.random.key(0)), what, 3))
  )
  if kind in (ParamRole.SCALE, ParamRole.BIAS, ParamRole.STATE):
    assert (values == (kind is ParamRole.SCALE)).all()
    return
  cdf = REFERENCES['init'][variant.tag](variant, kind.value, what.fans, 3)
  expected = np.array([cdf(x) for x in values])
  ranks = np.arange(values.size + 1) / values.size
  distance = max(
    np.abs(expected - ranks[1:]).max(), np.abs(expected - ranks[:-1]).max()
  )
  assert distance < (np.log(2 / 1e-6) / (2 * values.size)) ** 0.5


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_its_loop(smoothing: float) -> None:
  logits_BTV, weights_BT = 3 * draws(2, 4, 7), np.abs(draws(2, 4))
  weights_BT[0, 1] = 0.0
  targets_BT = np.random.default_rng(0).integers(0, 7, (2, 4))
  targets_BT[:, 0] = logits_BTV.argmax(-1)[:, 0]
  expected = reference.cross_entropy(
    logits_BTV, targets_BT, weights_BT, smoothing
  )
  with jax.enable_x64(True):
    # A traced number, as in the program; 0 is static there.
    for given in (smoothing, jnp.asarray(smoothing)):
      sums = training_sums(
        (CrossEntropy(),),
        jnp.asarray(logits_BTV),
        targets_BT,
        jnp.asarray(weights_BT),
        given,
      )
      assert_exact(jnp.stack(sums[:3]), expected)


def test_squared_equals_its_loop() -> None:
  outputs_BTO, targets_BTO = draws(2, 4, 3), draws(2, 4, 3, seed=1)
  weights_BT = np.abs(draws(2, 4))
  weights_BT[0, 1] = 0.0
  expected = reference.squared(outputs_BTO, targets_BTO, weights_BT)
  with jax.enable_x64(True):
    sums = training_sums(
      (SquaredError(),),
      *map(jnp.asarray, (outputs_BTO, targets_BTO, weights_BT)),
      0.0,
    )
    assert_exact(jnp.stack(sums[:3]), expected)


@pytest.mark.slow
def test_masks_are_combined() -> None:
  for masks_ in mask_lists(causal=False):
    if any(mask.tag == 'auto' for mask in masks_):
      continue  # it stands for others
    segments_S = [1, 1, 2, 2, 0]
    seen_TS = [
      [reference.sees(masks_, t, s, segments_S) for s in range(5)]
      for t in range(5)
    ]
    at = Positions(jnp.arange(5), jnp.asarray([segments_S]))
    found_11TS = allowed(masks_, *broadcast_positions(at, at))
    np.testing.assert_array_equal(found_11TS[0, 0], seen_TS)
