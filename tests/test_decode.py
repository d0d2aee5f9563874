"""Decoding by toy models, against enumeration of all their sequences."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.decode import Beams, Sampling, beam_search, draw, generate, restrict

END, SIZE = 0, 4


def bigram(seed: int, vocabulary: int = 4) -> np.ndarray:
  """Returns the logits of the next symbol after each, at each position."""
  draw = np.random.default_rng(seed)
  return draw.normal(size=(16, vocabulary, vocabulary)) * 1.5


def step_of(logits_TVV: np.ndarray):
  """Returns a model that keeps all it was fed, to see the cache reordered."""
  table = jnp.asarray(logits_TVV)

  def step(tokens_B, cache):
    t, seen_BS = cache
    seen_BS = seen_BS.at[:, t].set(tokens_B)
    # The first symbol counts too: a wrong reordering shows.
    logits_BV = table[t, tokens_B] + 0.3 * table[t, seen_BS[:, 0]]
    return logits_BV, (t + 1, seen_BS)

  return step


def cache_of(batch: int):
  return jnp.zeros((), jnp.int32), jnp.zeros((batch, 16), jnp.int32)


def reorder(cache, index_X):
  t, seen_XS = cache
  return t, seen_XS[index_X]


def log_softmax(x: np.ndarray) -> np.ndarray:
  return x - np.log(np.exp(x).sum())


def every(logits_TVV: np.ndarray, first: int, penalty: float):
  """Returns (score, tokens) of every hypothesis of at most SIZE tokens."""
  found = []
  symbols = range(logits_TVV.shape[-1])
  for n in range(SIZE):
    for body in itertools.product([s for s in symbols if s != END], repeat=n):
      tokens, total, last = (*body, END), 0.0, first
      for t, token in enumerate(tokens):
        row = log_softmax(logits_TVV[t, last] + 0.3 * logits_TVV[t, first])
        # At the last position nothing but the end may follow.
        total += row[token] if t < SIZE - 1 or token == END else -math.inf
        last = token
      found.append((total / len(tokens) ** penalty, tokens))
  return sorted(found, reverse=True)


def searched(logits_TVV: np.ndarray, firsts: list[int], width: int, penalty):
  return beam_search(
    step_of(logits_TVV),
    reorder,
    cache_of(len(firsts) * width),
    jnp.asarray(firsts),
    width,
    SIZE,
    END,
    penalty,
  )


def trimmed(tokens_S: np.ndarray) -> tuple[int, ...]:
  ends = [n for n, token in enumerate(tokens_S) if token == END]
  return tuple(int(x) for x in tokens_S[: ends[0] + 1])


@pytest.mark.parametrize('penalty', [0.0, 1.0])
@pytest.mark.parametrize('seed', range(4))
def test_a_wide_beam_finds_the_best_of_all(seed: int, penalty: float) -> None:
  logits_TVV = bigram(seed)
  firsts = [1, 2, 3]
  # Wide enough that nothing is ever dropped.
  found = searched(logits_TVV, firsts, 40, penalty)
  for n, first in enumerate(firsts):
    best = every(logits_TVV, first, penalty)
    assert trimmed(np.asarray(found.tokens_BWS[n, 0])) == best[0][1]
    np.testing.assert_allclose(
      found.scores_BW[n, :5], [score for score, _ in best[:5]], rtol=1e-5
    )


@pytest.mark.parametrize('seed', range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
  logits_TVV = bigram(seed)
  firsts = jnp.asarray([1, 2, 3])
  found = searched(logits_TVV, [1, 2, 3], 1, 1.0)
  tokens_BS = jnp.zeros((3, SIZE + 1), jnp.int32).at[:, 0].set(firsts)
  greedy_BS = generate(
    step_of(logits_TVV),
    cache_of(3),
    tokens_BS,
    jnp.ones(3, jnp.int32),
    jnp.asarray(0),
    jax.random.split(jax.random.key(0), 3),
    Sampling(temperature=0.0),
    END,
  )
  for n in range(3):
    one = np.asarray(found.tokens_BWS[n, 0])
    other = np.asarray(greedy_BS[n, 1:])
    if END in other[:-1]:  # else the search was cut off at the last position
      assert trimmed(one) == trimmed(other)
    else:
      assert list(one[:-1]) == list(other[:-1])


def by_hand(logits_TVV: np.ndarray, first: int, width: int, penalty: float):
  """Returns what a beam search of one example finds, in loops."""
  alive, done = [(0.0, (first,))], []
  for t in range(SIZE):
    extended = []
    for total, tokens in alive:
      row = log_softmax(logits_TVV[t, tokens[-1]] + 0.3 * logits_TVV[t, first])
      for token, logp in enumerate(row):
        if t < SIZE - 1 or token == END:
          extended.append((total + logp, (*tokens, token)))
    extended.sort(reverse=True)
    alive = []
    for place, (total, tokens) in enumerate(extended[: 2 * width]):
      if tokens[-1] == END:
        if place < width and len(done) < width:
          done.append((total / (t + 1) ** penalty, tokens[1:]))
      elif len(alive) < width:
        alive.append((total, tokens))
    if len(done) >= width:
      break
  return sorted(done, reverse=True)


@pytest.mark.parametrize('width', [1, 2, 3])
@pytest.mark.parametrize('seed', range(6))
def test_a_beam_is_the_loop_over_lists(seed: int, width: int) -> None:
  logits_TVV = bigram(seed, 5)
  firsts = [1, 2, 3, 4]
  found = searched(logits_TVV, firsts, width, 0.6)
  for n, first in enumerate(firsts):
    for w, (score, tokens) in enumerate(by_hand(logits_TVV, first, width, 0.6)):
      assert trimmed(np.asarray(found.tokens_BWS[n, w])) == tokens
      np.testing.assert_allclose(found.scores_BW[n, w], score, rtol=1e-5)


def test_ragged_prompts_together_are_each_alone() -> None:
  logits_TVV = bigram(7, 6)
  prompts = [[3], [1, 4, 5], [2, 2]]
  keys_B = jax.random.split(jax.random.key(1), 3)

  @functools.partial(jax.jit, static_argnums=3)
  def run(tokens_BS, lengths_B, keys_B, end):
    return generate(
      step_of(logits_TVV),
      cache_of(tokens_BS.shape[0]),
      tokens_BS,
      lengths_B,
      jnp.asarray(0),
      keys_B,
      Sampling(),
      end,
    )

  lengths_B = jnp.asarray([len(p) for p in prompts])
  tokens_BS = jnp.asarray([p + [0] * (10 - len(p)) for p in prompts])
  for end in (None, END):
    together_BS = run(tokens_BS, lengths_B, keys_B, end)
    for n, prompt in enumerate(prompts):
      own = slice(n, n + 1)
      alone_BS = run(tokens_BS[own], lengths_B[own], keys_B[own], end)
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


def test_draws_have_the_probabilities_of_the_restricted_softmax() -> None:
  p = np.array([0.5, 0.3, 0.15, 0.05])
  logits_BV = jnp.log(jnp.tile(jnp.asarray(p), (20_000, 1)))
  keys_B = jax.random.split(jax.random.key(0), 20_000)
  drawn_B = np.asarray(draw(keys_B, logits_BV, Sampling(2.0, top_k=3)))
  expected = np.sqrt(p[:3]) / np.sqrt(p[:3]).sum()
  found = np.bincount(drawn_B, minlength=4) / 20_000
  np.testing.assert_allclose(found[:3], expected, atol=0.015)
  assert found[3] == 0
  greedy_B = draw(keys_B, logits_BV, Sampling(temperature=0.0))
  assert set(np.asarray(greedy_B).tolist()) == {0}


def test_hypotheses_come_best_first() -> None:
  found: Beams = searched(bigram(3), [1, 2], 4, 1.0)
  scores_BW = np.asarray(found.scores_BW)
  assert (np.diff(scores_BW, axis=1) <= 0).all()
