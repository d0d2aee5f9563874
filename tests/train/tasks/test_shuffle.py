"""Targets of other examples, and what there is left to learn of them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims.frequency import frequency_accuracy, frequency_loss
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from train.config.config import Config
from train.flags.schema import override
from train.programs.batches import batch_of
from train.tasks.base import Batch
from train.tasks.shuffle import shuffle_batch_targets

KEY = jax.random.key(0)


def made(weights_BT: np.ndarray) -> Batch:
  """Returns a batch whose targets are numbered from 0 on."""
  shape_BT = weights_BT.shape
  targets_BT = jnp.arange(weights_BT.size).reshape(shape_BT)
  ids_B = jnp.arange(shape_BT[0])
  inputs = ModelInputs(targets_BT + 100)
  return Batch(inputs, targets_BT, jnp.asarray(weights_BT), ids_B)


@pytest.mark.parametrize('seed', range(3))
def test_targets_are_those_of_other_examples(seed: int) -> None:
  rng = np.random.default_rng(seed)
  batch = made((rng.random((5, 7)) < 0.5).astype(np.float32))
  found = shuffle_batch_targets(batch, jax.random.key(seed))
  counted_BT = np.asarray(batch.weights_BT) > 0
  rows_BT = np.asarray(found.targets_BT) // 7
  own_BT = np.arange(5)[:, None]
  assert (rows_BT != own_BT)[counted_BT].all()
  # Of those that count, and nothing else has changed.
  counting = np.asarray(batch.targets_BT)[counted_BT]
  assert np.isin(np.asarray(found.targets_BT)[counted_BT], counting).all()
  other_BT = np.where(counted_BT, batch.targets_BT, found.targets_BT)
  np.testing.assert_array_equal(other_BT, batch.targets_BT)
  for name in ('weights_BT', 'ids_B'):
    np.testing.assert_array_equal(
      found._asdict()[name], batch._asdict()[name], name
    )


def test_each_target_of_the_others_is_as_likely() -> None:
  weights_BT = np.ones((3, 2), np.float32)
  weights_BT[2, 1] = 0
  batch = made(weights_BT)
  keys = jax.random.split(KEY, 4000)
  many = jax.vmap(lambda key: shuffle_batch_targets(batch, key).targets_BT)(
    keys
  )
  first, share = np.unique(np.asarray(many[:, 0, 0]), return_counts=True)
  assert first.tolist() == [2, 3, 4]
  # Four standard errors of a third in 4,000 draws.
  assert abs(share / 4000 - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 4000)


def test_a_target_that_no_other_example_has_counts_no_more() -> None:
  batch = made(np.array([[1, 1], [0, 0]], np.float32))
  assert not np.asarray(shuffle_batch_targets(batch, KEY).weights_BT).any()


def text(tmp_path: Path, *flags: str) -> Config:
  """Returns a trial of a text of a's and b's, of which 9 of 10 are a's."""
  path = tmp_path / 'text.txt'
  path.write_text('aaaaaaaaab' * 400)
  given = {'task.path': str(path), 'seq_len': '20', 'batch_size': '4'}
  return override(Config(), given | dict(flag.split('=', 1) for flag in flags))


def test_batches_are_shuffled_where_that_is_asked(tmp_path: Path) -> None:
  plain = text(tmp_path)
  control = dataclasses.replace(plain, shuffle_targets=True)
  arrays = plain.task.load().arrays
  step = jnp.asarray(3)
  own, mixed = (batch_of(c, arrays, step) for c in (plain, control))
  np.testing.assert_array_equal(own.inputs.tokens_BT, mixed.inputs.tokens_BT)
  assert (np.asarray(own.targets_BT) != np.asarray(mixed.targets_BT)).any()
  # A function of seed and step.
  again = batch_of(control, arrays, step).targets_BT
  np.testing.assert_array_equal(mixed.targets_BT, again)
  later = batch_of(control, arrays, step + 1).targets_BT
  assert (np.asarray(again) != np.asarray(later)).any()
  ids_B = jnp.arange(4)
  np.testing.assert_array_equal(
    plain.task.evaluation_batch(arrays, ids_B, 20).targets_BT,
    control.task.evaluation_batch(arrays, ids_B, 20).targets_BT,
  )


def test_what_does_not_shuffle_has_the_program_of_before(
  tmp_path: Path,
) -> None:
  config = text(tmp_path)
  arrays = jax.tree.map(jnp.asarray, config.task.load().arrays)
  jaxpr = jax.make_jaxpr(lambda step: batch_of(config, arrays, step))
  assert 'argsort' not in str(jaxpr(jnp.asarray(0)))
  control = dataclasses.replace(config, shuffle_targets=True)
  jaxpr = jax.make_jaxpr(lambda step: batch_of(control, arrays, step))
  assert 'argsort' in str(jaxpr(jnp.asarray(0)))


def test_one_example_has_no_others(tmp_path: Path) -> None:
  with pytest.raises(FieldError, match='--batch_size=1 has none'):
    text(tmp_path, 'batch_size=1', 'shuffle_targets=true')


def test_frequencies_are_known_without_training(tmp_path: Path) -> None:
  config = text(tmp_path, 'shuffle_targets=true', 'steps=40')
  data = config.task.load()
  # 0.9 and 0.1 in both parts: their entropy.
  entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
  assert frequency_loss(config, data) == pytest.approx(entropy, abs=1e-3)
  assert frequency_accuracy(config, data) == pytest.approx(0.9, abs=0.01)
