"""Normalizers: from the logits of one query to its weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spec.reference.arithmetic import Params, Vector, logistic

# Normalizer: from the logits of one query in head n to its weights. -----------


def softmax(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """The softmax over the keys that are seen; zeros if none is."""
  return with_sink(None, logits_S, seen_S)


def softmax1(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Miller 2023: 1 is added to the denominator."""
  return with_sink(0.0, logits_S, seen_S)


def sink(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """One more logit in the denominator, a number of the head."""
  return with_sink(params['sink'][n], logits_S, seen_S)


def with_sink(
  extra: float | None, logits_S: Vector, seen_S: Sequence[bool]
) -> Vector:
  """The softmax over the keys that are seen and a key without a value."""
  seen = [s for s in range(len(logits_S)) if seen_S[s]]
  weights_S = np.zeros(len(logits_S))
  terms = [logits_S[s] for s in seen] + ([] if extra is None else [extra])
  if not terms:
    return weights_S
  top, total = max(terms), 0.0
  for term in terms:
    total += math.exp(term - top)
  for s in seen:
    weights_S[s] = math.exp(logits_S[s] - top) / total
  return weights_S


def sigmoid(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Ramapuram et al. 2024, section 3.1, b = -log n, n keys being seen."""
  count = sum(bool(seen) for seen in seen_S)
  return np.array(
    [
      logistic(logit - math.log(count)) if seen else 0.0
      for logit, seen in zip(logits_S, seen_S, strict=True)
    ]
  )


def unnormalized(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """The logits, zero where a key is not seen."""
  return np.array(
    [x if seen else 0.0 for x, seen in zip(logits_S, seen_S, strict=True)]
  )


def elu(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Katharopoulos et al. 2020, equation 4: similarities over their sum."""
  kept_S = unnormalized(variant, params, n, logits_S, seen_S)
  return kept_S / sum(kept_S) if any(seen_S) else kept_S


def elu_features(x_H: Vector) -> Vector:
  """Katharopoulos et al. 2020, equation 7: elu(x) + 1."""
  return np.array([x + 1.0 if x > 0 else math.exp(x) for x in x_H])


def relu(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Wortsman et al. 2023, section 3: each by its own relu, over L seen."""
  count = sum(bool(seen) for seen in seen_S)
  return np.array(
    [
      max(0.0, x) / count if seen else 0.0
      for x, seen in zip(logits_S, seen_S, strict=True)
    ]
  )


def relu2(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Hua et al. 2022, section 2.2: the square of relu, over n seen."""
  count = sum(bool(seen) for seen in seen_S)
  return np.array(
    [
      max(0.0, x) ** 2 / count if seen else 0.0
      for x, seen in zip(logits_S, seen_S, strict=True)
    ]
  )


def above_threshold(
  share: Callable[[float], float], logits_S: Vector, seen_S: Sequence[bool]
) -> Vector:
  """The shares of logits - tau, tau by halving so that they add up to 1."""
  seen = [s for s in range(len(logits_S)) if seen_S[s]]
  weights_S = np.zeros(len(logits_S))
  if not seen:
    return weights_S
  # Numbers near 0 have more digits; what is taken off all changes nothing.
  top = max(logits_S[s] for s in seen)
  low, high = -2.0, 0.0
  for _ in range(100):
    middle = (low + high) / 2
    total = sum(share(max(0.0, logits_S[s] - top - middle)) for s in seen)
    low, high = (middle, high) if total > 1.0 else (low, middle)
  for s in seen:
    weights_S[s] = share(max(0.0, logits_S[s] - top - low))
  return weights_S


def sparsemax(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Martins & Astudillo 2016, proposition 1: max(0, z - tau)."""
  return above_threshold(lambda x: x, logits_S, seen_S)


def entmax15(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Peters et al. 2019, equation 10, alpha = 1.5: max(0, z / 2 - tau)^2."""
  return above_threshold(lambda x: (x / 2) ** 2, logits_S, seen_S)


def topk(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """Gupta et al. 2021: the softmax, of the k largest logits alone."""
  seen = [s for s in range(len(logits_S)) if seen_S[s]]
  kept = sorted(seen, key=lambda s: -logits_S[s])[: variant.k]
  return with_sink(None, logits_S, [s in kept for s in range(len(logits_S))])


def hard(
  variant: Any,
  params: Params,
  n: int,
  logits_S: Vector,
  seen_S: Sequence[bool],
) -> Vector:
  """1 at the largest logit that is seen."""
  seen = [s for s in range(len(logits_S)) if seen_S[s]]
  weights_S = np.zeros(len(logits_S))
  if seen:
    weights_S[max(seen, key=lambda s: logits_S[s])] = 1.0
  return weights_S


# Of queries and keys, where a normaliser has any.
FEATURES: Mapping[str, Callable[[Vector], Vector]] = {'elu': elu_features}


NORMALIZERS: dict[str, Any] = {
  'softmax': softmax,
  'softmax1': softmax1,
  'sink': sink,
  'sigmoid': sigmoid,
  'none': unnormalized,
  'elu': elu,
  'relu': relu,
  'relu2': relu2,
  'sparsemax': sparsemax,
  'entmax15': entmax15,
  'topk': topk,
  'hard': hard,
}
