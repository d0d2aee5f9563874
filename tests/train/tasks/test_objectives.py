"""Masked tokens and classes: what is hidden, what is asked, what is learned."""

import collections
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import alone
from lessons import LESSONS, TINY, mlm, most_frequent
from model import transformer
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from train.config.config import Config
from train.core.errors import DataError
from train.devices.parallel import SharedLayout
from train.flags.schema import override
from train.programs.batches import batch_of
from train.programs.state import init_state
from train.tasks.base import Batch
from train.tasks.generated.most_frequent import MostFrequent
from train.tasks.texts.mlm import Mlm
from train.text.vocabulary import Special
from train.trial import Options, Trial


def trained(config: Config, folder: pathlib.Path) -> dict[str, float]:
  cpus = SharedLayout(tuple(jax.local_devices(backend='cpu')[:1]))
  trial = Trial('t', config, folder, config.task.load())
  return dict(alone.run(trial, Options(), cpus).metrics)


def assert_learned(name: str, folder: pathlib.Path) -> None:
  """Trains the lesson of a name, and looks at what it came to."""
  folder.mkdir(exist_ok=True)
  lesson = LESSONS[name]
  metrics = trained(lesson.make(folder), folder / 'run')
  assert metrics[lesson.figure] < lesson.bound


# Masked tokens. ---------------------------------------------------------------


@pytest.mark.slow
def test_what_is_hidden_has_the_shares_of_bert(tmp_path: pathlib.Path) -> None:
  config = override(mlm(tmp_path), {'batch_size': '2000'})
  data = config.task.load()
  arrays = {k: jnp.asarray(v) for k, v in data.arrays.items()}
  batch = jax.tree.map(np.asarray, batch_of(config, arrays, jnp.asarray(0)))
  chosen = batch.weights_BT == 1
  count, total = chosen.sum(), chosen.size
  assert set(np.unique(batch.weights_BT)) == {0, 1}

  def near(found: float, share: float, of: int) -> bool:
    """Within five standard deviations of a binomial share."""
    return abs(found - share * of) < 5 * (of * share * (1 - share)) ** 0.5

  assert near(count, 0.15, total)
  mask = data.vocabulary.id_of(Special.MASK)
  inputs, targets = batch.inputs.tokens_BT[chosen], batch.targets_BT[chosen]
  assert near((inputs == mask).sum(), 0.8, count)
  # A token drawn at random is by chance what it was one time in ten.
  assert near((inputs == targets).sum(), 0.1 + 0.1 * 0.1, count)
  drawn = inputs[(inputs != mask) & (inputs != targets)]
  assert set(drawn) == set(range(1, 11))
  np.testing.assert_array_equal(
    batch.inputs.tokens_BT[~chosen], batch.targets_BT[~chosen]
  )


@pytest.mark.slow
def test_what_is_hidden_changes_with_the_step_but_not_to_evaluate(
  tmp_path: pathlib.Path,
) -> None:
  config = mlm(tmp_path)
  arrays = {k: jnp.asarray(v) for k, v in config.task.load().arrays.items()}

  def hidden(batch: Batch) -> list[list[float]]:
    return np.asarray(batch.weights_BT).tolist()

  def at(step: int, seed: int = 0) -> list[list[float]]:
    seeded = dataclasses.replace(config, seed=seed)
    return hidden(batch_of(seeded, arrays, jnp.asarray(step)))

  def held(*ids: int) -> list[list[float]]:
    task = config.task
    return hidden(task.evaluation_batch(arrays, jnp.asarray(ids), 24))

  first, again = at(3), at(3)
  assert first == again
  assert first != at(4) != at(4, seed=1)
  assert held(0, 1, 2)[1:] == held(1, 2)


@pytest.mark.slow
def test_an_mlm_and_an_lm_start_from_equal_values(
  tmp_path: pathlib.Path,
) -> None:
  masked = mlm(tmp_path)
  flags = {'task': 'text', 'model': 'decoder', 'task.path': masked.task.path}
  plain = override(Config(), TINY | flags | {'task.reserve_mask': 'true'})
  starts = [
    init_state(config, config.sizes(config.task.load().vocabulary)).params
    for config in (masked, plain)
  ]
  jax.tree.map(np.testing.assert_array_equal, *starts)


@pytest.mark.slow
def test_a_batch_that_hides_nothing_is_no_divergence(
  tmp_path: pathlib.Path,
) -> None:
  flags = {'batch_size': '1', 'seq_len': '2', 'steps': '20', 'eval_every': '20'}
  config = override(mlm(tmp_path), flags)
  data = {k: jnp.asarray(v) for k, v in config.task.load().arrays.items()}
  hidden = [
    float(batch_of(config, data, jnp.asarray(step)).weights_BT.sum())
    for step in range(20)
  ]
  assert 0.0 in hidden
  assert np.isfinite(trained(config, tmp_path / 'run')['val_loss'])


@pytest.mark.slow
def test_an_mlm_learns_from_both_sides(tmp_path: pathlib.Path) -> None:
  # A causal mask hides half of what tells the letter, but not all.
  for name in ('mlm', 'causal mlm'):
    assert_learned(name, tmp_path / name)


def test_shares_beyond_the_whole_are_refused() -> None:
  with pytest.raises(FieldError, match=r'task\.masked=0\.8 are shares of one'):
    override(Config(), {'task': 'mlm', 'model': 'encoder', 'task.random': '.3'})
  assert Mlm(masked=0.5, random=0.5)


# Classes. ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_most_frequent_symbol_is_asked_for() -> None:
  config = most_frequent({'seq_len': '9', 'batch_size': '50'})
  arrays = {k: jnp.asarray(v) for k, v in config.task.load().arrays.items()}
  batch = batch_of(config, arrays, jnp.asarray(0))
  for tokens_T, (target,) in zip(
    np.asarray(batch.inputs.tokens_BT),
    np.asarray(batch.targets_BT),
    strict=True,
  ):
    counts = collections.Counter(tokens_T.tolist())
    assert counts[int(target)] == max(counts.values())
    assert min(s for s in counts if counts[s] == counts[int(target)]) == target
  held = config.task.evaluation_batch(arrays, jnp.arange(50), 9)
  assert (
    np.asarray(held.inputs.tokens_BT) != np.asarray(batch.inputs.tokens_BT)
  ).any()
  assert config.task.evaluation_size(arrays, 9) == MostFrequent().num_held


def test_another_vocabulary_is_refused() -> None:
  with pytest.raises(
    DataError, match=r'task\.symbols=3: the trial was trained'
  ):
    MostFrequent(3).load(MostFrequent(4).load().vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize(
  'pooling', [pytest.param('mean', marks=pytest.mark.slow), 'cls']
)
def test_a_classifier_learns(pooling: str, tmp_path: pathlib.Path) -> None:
  assert_learned(pooling, tmp_path)


@pytest.mark.slow
def test_padding_does_not_reach_the_classes() -> None:
  config = most_frequent({})
  data = config.task.load()
  arch, dims = config.architecture, config.sizes(data.vocabulary)
  params = init_state(config, dims).params
  tokens_BT = jax.random.randint(jax.random.key(0), (2, 6), 0, 5)
  real_BT = jnp.asarray([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])

  def classes(tokens_BT: jax.Array) -> np.ndarray:
    out = transformer.apply(
      arch, dims, params, ModelInputs(tokens_BT, segments_BT=real_BT)
    )
    return np.asarray(out.logits_BTV)

  before = classes(tokens_BT)
  changed = classes((tokens_BT + 1 - real_BT) % 5)
  np.testing.assert_array_equal(before, changed)
  assert (before != classes((tokens_BT + real_BT) % 5)).any()
