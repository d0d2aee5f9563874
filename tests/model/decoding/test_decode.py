"""Decoding by toy models whose next symbols are a table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.toy_models import END, bigram, cache_of, step_of
from model.decoding.decode import Sampling, draw, generate, restrict


@pytest.mark.slow
def test_ragged_prompts_together_are_each_alone() -> None:
  logits_TVV = bigram(7, 6)
  prompts = [[3], [1, 4, 5], [2, 2]]
  rngs_B = jax.random.split(jax.random.key(1), 3)

  @functools.partial(jax.jit, static_argnums=3)
  def run(
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    rngs_B: jax.Array,
    end: int | None,
  ) -> jax.Array:
    return generate(
      step_of(logits_TVV),
      cache_of(tokens_BS.shape[0]),
      tokens_BS,
      lengths_B,
      jnp.asarray(0),
      rngs_B,
      Sampling(),
      end,
    )

  lengths_B = jnp.asarray([len(p) for p in prompts])
  tokens_BS = jnp.asarray([p + [0] * (10 - len(p)) for p in prompts])
  for end in (None, END):
    together_BS = run(tokens_BS, lengths_B, rngs_B, end)
    for n, prompt in enumerate(prompts):
      own = slice(n, n + 1)
      alone_BS = run(tokens_BS[own], lengths_B[own], rngs_B[own], end)
      np.testing.assert_array_equal(alone_BS[0], together_BS[n])
      assert list(together_BS[n, : len(prompt)]) == prompt
      after = [int(x) for x in together_BS[n, len(prompt) :]]
      if end is not None and END in after:
        assert set(after[after.index(END) :]) == {END}


def test_what_may_be_drawn() -> None:
  p = np.array([0.5, 0.2, 0.2, 0.06, 0.04])
  logits_BV = jnp.log(jnp.asarray(p))[None]

  def allowed(sampling: Sampling) -> list[int]:
    restricted_V = restrict(logits_BV, sampling)[0]
    return [n for n in range(5) if restricted_V[n] > -1e20]

  assert allowed(Sampling()) == [0, 1, 2, 3, 4]
  assert allowed(Sampling(top_k=1)) == [0]
  assert allowed(Sampling(top_k=9)) == [0, 1, 2, 3, 4]
  assert allowed(Sampling(top_p=0.49)) == [0]
  assert allowed(Sampling(top_p=0.0)) == [0]
  assert allowed(Sampling(top_p=0.91)) == [0, 1, 2, 3]
  assert allowed(Sampling(top_k=4, top_p=0.95)) == [0, 1, 2, 3]
  assert allowed(Sampling(top_p=1.0)) == [0, 1, 2, 3, 4]


def test_the_lowest_temperature_takes_the_most_likely() -> None:
  """And the highest takes any, where both are beyond what float32 holds."""
  logits_BV = jnp.tile(jnp.asarray([-2.0, 6.5, 7.0, 6.9, -90.0]), (200, 1))
  rngs_B = jax.random.split(jax.random.key(0), 200)
  for low in (1e-4, 1e-30, 1e-38, 1e-45, 1e-300):
    for how in (Sampling(low), Sampling(low, top_p=0.9), Sampling(low, 2)):
      drawn_B = np.asarray(draw(rngs_B, logits_BV, how))
      assert set(drawn_B.tolist()) == {2}, how
  for high in (1e6, 1e38, 1e300):
    drawn_B = np.asarray(draw(rngs_B, logits_BV, Sampling(high)))
    assert np.bincount(drawn_B, minlength=5).min() > 20


def test_draws_have_the_probabilities_of_the_restricted_softmax() -> None:
  p = np.array([0.5, 0.3, 0.15, 0.05])
  logits_BV = jnp.log(jnp.tile(jnp.asarray(p), (20_000, 1)))
  rngs_B = jax.random.split(jax.random.key(0), 20_000)
  drawn_B = np.asarray(draw(rngs_B, logits_BV, Sampling(2.0, top_k=3)))
  expected = np.sqrt(p[:3]) / np.sqrt(p[:3]).sum()
  found = np.bincount(drawn_B, minlength=4) / 20_000
  np.testing.assert_allclose(found[:3], expected, atol=0.015)
  assert found[3] == 0
  greedy_B = draw(rngs_B, logits_BV, Sampling(temperature=0.0))
  assert set(np.asarray(greedy_B).tolist()) == {0}
