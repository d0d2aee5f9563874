"""Beam search by toy models, against loops and all their sequences."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.toy_models import END, bigram, cache_of, step_of
from model import transformer
from model.attention.normalizers.dense import Unnormalized
from model.attention.outputs.forget import Forget
from model.attention.scale import NoScale
from model.cache import Cache, empty, select_examples
from model.core.inputs import ModelInputs
from model.decoding.beam import Beams, BeamSettings, beam_search
from model.decoding.decode import Sampling, generate
from model.position.base import Rope
from spec.architectures import BASE, SEQ_LEN, dims_of, params_of

pytestmark = pytest.mark.usefixtures('quick_compilation')

SIZE = 4


def reorder(cache: Any, index_X: jax.Array) -> Any:
  t, seen_XS = cache
  return t, seen_XS[index_X]


def log_softmax(x: np.ndarray) -> np.ndarray:
  return x - np.log(np.exp(x).sum())


def row_of(logits_TVV: np.ndarray, t: int, last: int, first: int) -> np.ndarray:
  """Returns the log-probabilities that the toy model gives."""
  return log_softmax(logits_TVV[t, last] + 0.3 * logits_TVV[t, first])


def may_follow(t: int, token: int, limit: int, least: int) -> bool:
  return token == END if t == limit - 1 else token != END or t >= least


def every(
  logits_TVV: np.ndarray, first: int, penalty: float, limit: int, least: int
) -> list[tuple[float, tuple[int, ...]]]:
  """Returns (score, tokens) of every hypothesis of at most `limit` tokens."""
  found = []
  words = [s for s in range(logits_TVV.shape[-1]) if s != END]
  for n in range(least, limit):
    for body in itertools.product(words, repeat=n):
      tokens, total, last = (*body, END), 0.0, first
      for t, token in enumerate(tokens):
        total += row_of(logits_TVV, t, last, first)[token]
        last = token
      found.append((total / len(tokens) ** penalty, tokens))
  return sorted(found, reverse=True)


def by_hand(
  logits_TVV: np.ndarray,
  first: int,
  width: int,
  penalty: float,
  limit: int,
  least: int,
) -> list[tuple[float, tuple[int, ...]]]:
  """Returns what a beam search of one example finds, in loops over lists."""
  alive: list[tuple[float, tuple[int, ...]]] = [(0.0, (first,))]
  done: list[tuple[float, tuple[int, ...]]] = []
  for t in range(limit):
    longer = [
      (total + logp, (*tokens, token))
      for total, tokens in alive
      for token, logp in enumerate(row_of(logits_TVV, t, tokens[-1], first))
      if may_follow(t, token, limit, least)
    ]
    longer.sort(reverse=True)
    alive = []
    for place, (total, tokens) in enumerate(longer[: 2 * width]):
      if tokens[-1] == END:
        if place < width and len(done) < width:
          done.append((total / (t + 1) ** penalty, tokens[1:]))
      elif len(alive) < width:
        alive.append((total, tokens))
    if len(done) >= width:
      break
  return sorted(done, reverse=True)


def searched(
  logits_TVV: np.ndarray,
  firsts: Sequence[int],
  width: int,
  penalty: float,
  limits: Sequence[int] | None = None,
  least: int = 0,
) -> Beams:
  return beam_search(
    step_of(logits_TVV),
    reorder,
    cache_of(len(firsts) * width),
    jnp.asarray(firsts),
    BeamSettings(width, SIZE, END, penalty, least),
    None if limits is None else jnp.asarray(limits),
  )


def trimmed(tokens_S: Any) -> tuple[int, ...]:
  """Returns a hypothesis up to its end."""
  tokens = [int(x) for x in tokens_S]
  return tuple(tokens[: tokens.index(END) + 1])


@pytest.mark.slow
@pytest.mark.parametrize('penalty', [0.0, 1.0])
@pytest.mark.parametrize('seed', range(4))
def test_a_wide_beam_finds_the_best_of_all(seed: int, penalty: float) -> None:
  logits_TVV = bigram(seed)
  firsts, limits = [1, 2, 3, 1], [4, 3, 2, 9]
  # So wide that nothing is ever dropped.
  found = searched(logits_TVV, firsts, 40, penalty, limits, least=1)
  for n, (first, limit) in enumerate(zip(firsts, limits, strict=True)):
    best = every(logits_TVV, first, penalty, min(limit, SIZE), 1)
    count = min(3, len(best))
    for w in range(count):
      assert trimmed(found.tokens_BWS[n, w]) == best[w][1]
    scores = [score for score, _ in best[:count]]
    np.testing.assert_allclose(found.scores_BW[n, :count], scores, rtol=1e-5)
    assert int((found.scores_BW[n] > -1e29).sum()) == min(40, len(best))


# Each is a program of its own.
SIZES = [
  pytest.param(
    width, least, marks=() if least == width - 1 else pytest.mark.slow
  )
  for width in (1, 2, 3)
  for least in (0, 1, 2)
]


@pytest.mark.parametrize(('width', 'least'), SIZES)
@pytest.mark.parametrize('seed', range(4))
def test_a_beam_is_the_loop_over_lists(
  seed: int, width: int, least: int
) -> None:
  logits_TVV = bigram(seed, 5)
  firsts, limits = [1, 2, 3, 4], [4, 4, 3, 1 + least]
  found = searched(logits_TVV, firsts, width, 0.6, limits, least)
  for n, (first, limit) in enumerate(zip(firsts, limits, strict=True)):
    known = by_hand(logits_TVV, first, width, 0.6, limit, least)
    assert len(known) >= 1
    for w, (score, tokens) in enumerate(known):
      assert trimmed(found.tokens_BWS[n, w]) == tokens
      np.testing.assert_allclose(found.scores_BW[n, w], score, rtol=1e-5)
    assert int((found.scores_BW[n] > -1e29).sum()) == len(known)


@pytest.mark.parametrize('seed', range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
  logits_TVV = bigram(seed)
  firsts = jnp.asarray([1, 2, 3])
  found = searched(logits_TVV, [1, 2, 3], 1, 1.0)
  greedy_BS = generate(
    step_of(logits_TVV),
    cache_of(3),
    jnp.zeros((3, SIZE + 1), jnp.int32).at[:, 0].set(firsts),
    jnp.ones(3, jnp.int32),
    jnp.asarray(0),
    jax.random.split(jax.random.key(0), 3),
    Sampling(temperature=0.0),
    END,
  )
  for n in range(3):
    one = [int(x) for x in found.tokens_BWS[n, 0]]
    other = [int(x) for x in greedy_BS[n, 1:]]
    assert one[-1] == END  # where the search was cut off, if not before
    assert one[:-1] == other[:-1]


@pytest.mark.slow
def test_an_example_does_not_depend_on_the_others() -> None:
  logits_TVV = bigram(5, 6)
  firsts, limits = [1, 2, 3, 4, 5], [4, 2, 3, 4, 1]
  together = searched(logits_TVV, firsts, 3, 1.0, limits)
  for n in range(5):
    alone = searched(logits_TVV, firsts[n : n + 1], 3, 1.0, limits[n : n + 1])
    np.testing.assert_array_equal(alone.tokens_BWS[0], together.tokens_BWS[n])
    np.testing.assert_allclose(alone.scores_BW[0], together.scores_BW[n], 1e-6)


def test_hypotheses_come_best_first_and_longer_ones_pay() -> None:
  lengths = []
  for penalty in (0.0, 3.0):
    found = searched(bigram(3), [1, 2], 4, penalty)
    assert (np.diff(np.asarray(found.scores_BW), axis=1) <= 0).all()
    best = [len(trimmed(found.tokens_BWS[n, 0])) for n in range(2)]
    lengths.append(sum(best))
  assert lengths[1] > lengths[0]  # scores are negative: to divide them helps


# A transformer and its caches. ------------------------------------------------

ARCHITECTURES = {
  'keys': dataclasses.replace(BASE, position=Rope()),
  'fading keys': dataclasses.replace(BASE, output=(Forget(),)),
  'a state': dataclasses.replace(
    BASE, normalizer=Unnormalized(), scale=NoScale()
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_a_cache_follows_its_hypotheses(name: str) -> None:
  """The search without a cache runs all of each hypothesis anew."""
  arch = ARCHITECTURES[name]
  dims, params = dims_of(arch), params_of(arch)
  firsts = jnp.asarray([1, 4, 2])
  rules = BeamSettings(width=3, size=SEQ_LEN, end=END, least=4)
  kept = empty(arch, dims, 9, SEQ_LEN)

  def step(tokens_X: jax.Array, kept: Cache) -> tuple[jax.Array, Cache]:
    out, kept = transformer.decode_step(
      arch, dims, params, ModelInputs(tokens_X[:, None]), kept
    )
    return out.logits_BTV[:, 0], kept

  def whole(tokens_X: jax.Array, seen: Any) -> tuple[jax.Array, Any]:
    t, seen_XS = seen
    seen_XS = seen_XS.at[:, t].set(tokens_X)
    out = transformer.apply(arch, dims, params, ModelInputs(seen_XS))
    return out.logits_BTV[:, t], (t + 1, seen_XS)

  nothing = jnp.zeros((), jnp.int32), jnp.zeros((9, SEQ_LEN), jnp.int32)
  slow = beam_search(whole, reorder, nothing, firsts, rules)
  fast = beam_search(step, select_examples, kept, firsts, rules)
  np.testing.assert_array_equal(fast.tokens_BWS, slow.tokens_BWS)
  np.testing.assert_allclose(fast.scores_BW, slow.scores_BW, rtol=1e-4)
  # Else a cache that is not reordered would do as well.
  stale = beam_search(step, lambda kept, _: kept, kept, firsts, rules)
  assert not np.allclose(stale.scores_BW, slow.scores_BW, rtol=1e-3)
