"""The specification: every variant as float64 loops, written from the papers.

Explicit loops over batch, head and position, nothing vectorised, and nothing
imported from the code under test: variants come in as values whose numbers are
read, parameters as arrays by their paths.  `REFERENCES[union][tag]` holds what
a member of a union means; a member without an entry fails the collection of
`test_reference.py`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Vector = Sequence[float] | np.ndarray
Params = Mapping[str, np.ndarray]


def dot(a: Vector, b: Vector) -> float:
  """Returns the sum of a_i b_i."""
  total = 0.0
  for x, y in zip(a, b, strict=True):
    total += float(x) * float(y)
  return total


def linear(x_D: Vector, w_DF: np.ndarray, bias: Any = None) -> np.ndarray:
  """Returns x W + b, of a W with any number of output axes."""
  flat_DF = np.reshape(w_DF, (len(x_D), -1))
  out_F = np.zeros(flat_DF.shape[1])
  for j in range(flat_DF.shape[1]):
    out_F[j] = dot(x_D, flat_DF[:, j])
    if bias is not None:
      out_F[j] += np.reshape(bias, -1)[j]
  return out_F.reshape(w_DF.shape[1:])


def optional(params: Params, name: str) -> np.ndarray | None:
  """Returns a bias if the model has it."""
  return params.get(name)


# Score: the logit of query t and key s in head n; x_D made the query. ---------


def dot_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """The product q . k."""
  return dot(q_H, k_H)


def additive_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Bahdanau et al. 2015, appendix A.1.2: v tanh(W s + U h)."""
  total = 0.0
  for h in range(len(q_H)):
    total += params['vector'][h, n] * math.tanh(q_H[h] + k_H[h])
  return total


def l2_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Kim et al. 2021, equation 10: -|q - k|^2."""
  return -sum((q - k) ** 2 for q, k in zip(q_H, k_H, strict=True))


def synthesizer_dense_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Tay et al. 2021, section 3.1: place s of W_2 max(0, W_1 x + b_1) + b_2."""
  bias = [optional(params, name) for name in ('up_bias', 'down_bias')]
  up_NH = linear(x_D, params['up'], bias[0])
  total = 0.0 if bias[1] is None else bias[1][n, s]
  for h, value in enumerate(up_NH[n]):
    total += max(0.0, value) * params['down'][h, n, s]
  return total


def synthesizer_random_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Tay et al. 2021, section 3.2: a number of the head and both places."""
  return params['table'][n, t, s]


def fixed_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """You et al. 2020, section 3: the logarithm of a normal density around c."""
  places = [t - 1, t + 1, t, 0] if variant.places == 'both' else [t - 1, t, 0]
  center = places[n % len(places)]
  return -((s - center) ** 2) / (2 * variant.std**2)


# Scale: what a logit of head n is multiplied by, where a query sees `seen`. ---


def rsqrt_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """1 / sqrt(d_k)."""
  return 1.0 / math.sqrt(head_dim)


def no_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """Nothing."""
  return 1.0


def constant_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """The number."""
  return variant.value


def inverse_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """1 / d_k (Yang et al. 2022, definition 4.1)."""
  return 1.0 / head_dim


def learned_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """A number of the head over sqrt(d_k)."""
  return params['head'][n] / math.sqrt(head_dim)


def logn_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """Nakanishi 2025, equation 2: n^(s z), with z = q k / sqrt(d_k)."""
  factor = math.log(max(seen, 1)) / math.sqrt(head_dim)
  return factor * params['head'][n] if variant.learned else factor


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


def logistic(x: float) -> float:
  """1 / (1 + exp(-x))."""
  if x < 0:
    return math.exp(x) / (1.0 + math.exp(x))
  return 1.0 / (1.0 + math.exp(-x))


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


# Mask: whether the query at t sees the key at s, of documents a and b. --------


def causal(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The past and itself."""
  return s <= t


def full(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """Everything."""
  return True


def exclude_self(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """All but itself."""
  return s != t


def window(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """What is less than a window before or behind."""
  return t - variant.window < s < t + variant.window


def prefix(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The prefix, and the past behind it."""
  return s < variant.prefix or s <= t


def segments(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """The same document."""
  return a == b and b > 0


def padding(variant: Any, t: int, s: int, a: int, b: int) -> bool:
  """What is not padding."""
  return b > 0


def sees(
  masks: Iterable[Any], t: int, s: int, segments_T: Sequence[int]
) -> bool:
  """Whether all of the masks let the query at t see the key at s."""
  a, b = segments_T[t], segments_T[s]
  return all(REFERENCES['mask'][m.tag](m, t, s, a, b) for m in masks)


def places(
  masks: Iterable[tuple[str, Any]], segments_T: Sequence[int]
) -> list[int]:
  """Returns what each position counts as: in its document, if these part."""
  if 'segments' not in [tag for tag, _ in masks]:
    return list(range(len(segments_T)))
  found: list[int] = []
  for t, own in enumerate(segments_T):
    goes_on = t > 0 and segments_T[t - 1] == own
    found.append(found[-1] + 1 if goes_on else 0)
  return found


class FamilyReference(NamedTuple):
  """What `--mask=auto` stands for, what is predicted, and from what."""

  auto: str
  classes: bool = False
  source: bool = False


def masks_of(arch: Any, encodes_source: bool) -> list[tuple[str, Any]]:
  """Returns the masks of self-attention as tags and variants.

  The encoder of a source has those of its decoder that look both ways alike,
  and sees no padding.
  """
  family = REFERENCES['model'][arch.model.tag]
  found = [(family.auto if m.tag == 'auto' else m.tag, m) for m in arch.mask]
  if not encodes_source:
    return found
  kept = ('full', 'exclude_self', 'window')
  return [*((t, m) for t, m in found if t in kept), ('padding', None)]


def directed(arch: Any, encodes_source: bool) -> Any:
  """Returns the choices with a side for each `auto`: the mask of the stack's.

  Positions and scores look ahead where a query may see a later key.
  """
  ahead = all(tag != 'causal' for tag, _ in masks_of(arch, encodes_source))
  position, score = arch.position, arch.score
  if position.tag == 't5' and position.bidirectional is None:
    position = dataclasses.replace(position, bidirectional=ahead)
  if score.tag == 'fixed' and score.places == 'auto':
    places = 'both' if ahead else 'past'
    score = dataclasses.replace(score, places=places)
  return dataclasses.replace(arch, position=position, score=score)


# Position: of an embedding, a query or key, or a logit of head n of N. --------


def same_embedding(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """The embedding as it is."""
  return x_D


def same_head(variant: Any, x_H: Vector, t: int) -> Vector:
  """The query or key as it is."""
  return x_H


def no_bias(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Nothing."""
  return 0.0


class PositionReference(NamedTuple):
  """Of an embedding, of a query or key, and of a logit."""

  embed: Callable[[Any, Params, Vector, int], Vector] = same_embedding
  rotate: Callable[[Any, Vector, int], Vector] = same_head
  bias: Callable[[Any, Params, int, int, int, int], float] = no_bias


def sinusoidal(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """Vaswani et al. 2017, section 3.5: sines on even units, cosines on odd."""
  width, out_D = len(x_D), []
  for j in range(width):
    angle = t / variant.theta ** (2 * (j // 2) / width)
    wave = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    out_D.append(x_D[j] + wave)
  return np.array(out_D)


def learned(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """One trained vector for each position."""
  return np.array([x_D[j] + params['table'][t, j] for j in range(len(x_D))])


def rope(variant: Any, x_H: Vector, t: int) -> Vector:
  """Su et al. 2021, equation 15, with the pair i made of i and i + H/2."""
  width = len(x_H)
  half, out_H = width // 2, np.zeros(width)
  for i in range(half):
    angle = t * variant.theta ** (-2 * i / width)
    turned = complex(x_H[i], x_H[i + half]) * complex(
      math.cos(angle), math.sin(angle)
    )
    out_H[i], out_H[i + half] = turned.real, turned.imag
  return out_H


def alibi(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Press et al. 2022, section 3: slopes 2^(-8/N), 2^(-16/N), ...

  For N that are no power of two as in the authors' `get_slopes`: first the
  slopes of the power of two below, then the 1st, 3rd, ... of the one above.
  """
  below = 1
  while 2 * below <= num_heads:
    below *= 2
  if n < below:
    slope = 2 ** (-8 * (n + 1) / below)
  else:
    slope = 2 ** (-8 * (2 * (n - below) + 1) / (2 * below))
  return -slope * abs(t - s)


def t5_far(distance: int, exact: int, growing: int, largest: int) -> int:
  """Returns the bucket of a far distance, in fractions.

  exact + floor(growing log(distance / exact) / log(largest / exact)), at most
  the last: the floor is the largest j whose power is not beyond the distance.
  """
  power = Fraction(distance, exact) ** growing
  reached = [
    j for j in range(growing) if Fraction(largest, exact) ** j <= power
  ]
  return exact + max(reached)


def t5(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Raffel et al. 2020: `_relative_position_bucket` of the authors' code."""
  buckets, ahead, first = variant.buckets, s - t, 0
  if variant.bidirectional:
    buckets //= 2
    if ahead > 0:
      first = buckets
    distance = abs(ahead)
  else:
    distance = max(0, -ahead)
  exact = buckets // 2
  if distance < exact:
    bucket = distance
  else:
    bucket = t5_far(distance, exact, buckets - exact, variant.max_distance)
  return params['bias'][first + bucket, n]


# Normalisation of one query or key. -------------------------------------------


class QkNormReference(NamedTuple):
  """`query(variant, params, q_H)` and `key(variant, params, k_H)`."""

  query: Callable[[Any, Params, Vector], Vector]
  key: Callable[[Any, Params, Vector], Vector]


def same_vector(variant: Any, params: Params, x_H: Vector) -> Vector:
  """The vector."""
  return x_H


def unit(variant: Any, params: Params, x_H: Vector) -> Vector:
  """Henry et al. 2020, equation 3: x / |x|."""
  length = math.sqrt(sum(x * x for x in x_H) + variant.eps)
  return np.array([x / length for x in x_H])


def unit_times_gain(variant: Any, params: Params, x_H: Vector) -> Vector:
  """Henry et al. 2020, equation 4: g x / |x|, g in multiples of its start."""
  gain = variant.start * float(params['gain'])
  return np.array([gain * x for x in unit(variant, params, x_H)])


def layer_by(name: str) -> Callable[[Any, Params, Vector], Vector]:
  """Returns g (x - mean) / sqrt(var + eps) with the gain of this name."""

  def normalize(variant: Any, params: Params, x_H: Vector) -> Vector:
    return layernorm(variant, {'scale': params[name]}, x_H)

  return normalize


def rms_by(name: str) -> Callable[[Any, Params, Vector], Vector]:
  """Returns g x / sqrt(mean(x^2) + eps) with the gain of this name."""

  def normalize(variant: Any, params: Params, x_H: Vector) -> Vector:
    return rmsnorm(variant, {'scale': params[name]}, x_H)

  return normalize


# Output: what else attention does; defaults do nothing.


def same_value(params: Params, v_H: Vector, first_H: Vector) -> Vector:
  """The value."""
  return v_H


def no_decay(params: Params, x_TD: np.ndarray, n: int, t: int, s: int) -> float:
  """Nothing."""
  return 0.0


def same_heads(params: Params, x_N: Vector) -> Vector:
  """The numbers of all heads."""
  return x_N


def only_map(params: Params, layer: int, maps: Sequence[float]) -> float:
  """The weight of the only map."""
  (weight,) = maps
  return weight


def same_outputs(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """The outputs of the heads."""
  return out_NH


class OutputReference(NamedTuple):
  """What one output does to values, logits, weights and heads."""

  maps: int = 1
  values: Callable[..., Vector] = same_value
  decay: Callable[..., float] = no_decay
  mix_logits: Callable[..., Vector] = same_heads
  mix_weights: Callable[..., Vector] = same_heads
  join: Callable[..., float] = only_map
  finish: Callable[..., np.ndarray] = same_outputs


def gate(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Qiu et al. 2025, equation 5: Y * sigmoid(X W)."""
  gate_NH = linear(x_D, params['kernel'], optional(params, 'bias'))
  gated_NH = np.zeros(out_NH.shape)
  for n, h in np.ndindex(*out_NH.shape):
    gated_NH[n, h] = out_NH[n, h] * logistic(gate_NH[n, h])
  return gated_NH


def differential_initial(layer: int) -> float:
  """Ye et al. 2024, section 2.1, where the first layer is 1."""
  return 0.8 - 0.6 * math.exp(-0.3 * ((layer + 1) - 1))


def differential(params: Params, layer: int, maps: Sequence[float]) -> float:
  """Ye et al. 2024, equations 1 and 2: A_1 - lambda A_2."""
  first = math.exp(dot(params['query_1'], params['key_1']))
  second = math.exp(dot(params['query_2'], params['key_2']))
  return maps[0] - (first - second + differential_initial(layer)) * maps[1]


def differential_heads(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Ye et al. 2024, equation 3: (1 - lambda_init) LN(head), an RMS norm."""
  done = []
  for out_H in out_NH:
    square = sum(x * x for x in out_H) / len(out_H)
    done.append(
      [
        (1 - differential_initial(layer)) * g * x / math.sqrt(square + 1e-5)
        for g, x in zip(params['scale'], out_H, strict=True)
      ]
    )
  return np.array(done)


def exclusive_self(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Zhai 2026, equation 2: z = y - (y . v) v / |v|^2."""
  done = []
  for n, y_H in enumerate(out_NH):
    v_H = v_KH[n * len(v_KH) // len(out_NH)]
    share = dot(y_H, v_H) / dot(v_H, v_H)
    done.append([y - share * v for y, v in zip(y_H, v_H, strict=True)])
  return np.array(done)


def forget(params: Params, x_TD: np.ndarray, n: int, t: int, s: int) -> float:
  """Lin et al. 2025, equation 8: the sum of log f_l over l = s + 1 ... t."""
  total = 0.0
  for later in range(s + 1, t + 1):
    gate_N = linear(x_TD[later], params['kernel'], params['bias'])
    total += math.log(logistic(gate_N[n]))
  return total


def value_residual(params: Params, v_H: Vector, first_H: Vector) -> Vector:
  """Zhou et al. 2024: a V_1 + b V, a and b being halves of the parameters."""
  a, b = params['first'] / 2, params['own'] / 2
  return [a * x + b * y for x, y in zip(first_H, v_H, strict=True)]


def talking(name: str) -> Callable[[Params, Vector], Vector]:
  """Returns x -> x (1 + P): Shazeer et al. 2020, equations 3 and 5."""

  def mixed(params: Params, x_N: Vector) -> Vector:
    return add(x_N, linear(x_N, params[name]))

  return mixed


# Projections: queries of x, keys and values of y, and what becomes of heads. --


class ProjectionReference(NamedTuple):
  """`query|key|value(variant, params, x_D, N)`, `merge(params, heads_NH)`."""

  query: Callable[[Any, Params, Vector, int], np.ndarray]
  key: Callable[[Any, Params, Vector, int], np.ndarray]
  value: Callable[[Any, Params, Vector, int], np.ndarray]
  merge: Callable[[Params, np.ndarray], Vector]


def projected_by(
  name: str,
) -> Callable[[Any, Params, Vector, int], np.ndarray]:
  """Returns x -> x W, or -> max(0, x W_up) W, as heads."""

  def project(
    variant: Any, params: Params, x_D: Vector, num_heads: int
  ) -> np.ndarray:
    if variant.kind == 'mlp':
      hidden_F = linear(
        x_D, params[f'{name}_up'], optional(params, f'{name}_up_bias')
      )
      x_D = [max(0.0, h) for h in hidden_F]
    return linear(x_D, params[name], optional(params, f'{name}_bias'))

  return project


def merged_by_out(params: Params, heads_NH: np.ndarray) -> Vector:
  """concat(heads) W_O."""
  concat = [x for head_H in heads_NH for x in head_H]
  kernel = np.reshape(params['out'], (len(concat), -1))
  return linear(concat, kernel, optional(params, 'out_bias'))


def sliced(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """Head n is the n-th slice of x."""
  width = len(x_D) // num_heads
  return np.array([x_D[n * width : (n + 1) * width] for n in range(num_heads)])


def side_by_side(params: Params, heads_NH: np.ndarray) -> Vector:
  """concat(heads)."""
  return np.array([x for head_H in heads_NH for x in head_H])


def projections_of(query: str, key: str, value: str) -> ProjectionReference:
  """Returns the projections that take these matrices."""
  return ProjectionReference(
    projected_by(query), projected_by(key), projected_by(value), merged_by_out
  )


def latent_query(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 6 to 8 and 14 to 16, before the rotation."""
  if variant.query_latent is not None:
    x_D = linear(x_D, params['query_latent'])
  q_NH = linear(x_D, params['query'], optional(params, 'query_bias'))
  return with_rotated(q_NH, linear(x_D, params['query_rotated']))


def latent_key(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 9, 10, 15 and 17, before the rotation."""
  c_C = linear(x_D, params['latent'])
  k_NH = linear(c_C, params['key'], optional(params, 'key_bias'))
  k_R = linear(x_D, params['key_rotated'])
  return with_rotated(k_NH, [k_R] * len(k_NH))


def with_rotated(x_NH: np.ndarray, rotated_NR: Sequence[Vector]) -> np.ndarray:
  """Each head and, behind it, the part of it that is rotated."""
  return np.array(
    [[*x_H, *x_R] for x_H, x_R in zip(x_NH, rotated_NR, strict=True)]
  )


def latent_value(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 9 and 11."""
  c_C = linear(x_D, params['latent'])
  return linear(c_C, params['value'], optional(params, 'value_bias'))


# Norm: of one vector. ---------------------------------------------------------


def layernorm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Ba et al. 2016: g (x - mean) / sqrt(var + eps) + b, var over n."""
  mean = sum(x_D) / len(x_D)
  var = sum((x - mean) ** 2 for x in x_D) / len(x_D)
  bias, out_D = optional(params, 'bias'), np.zeros(len(x_D))
  for j, x in enumerate(x_D):
    out_D[j] = params['scale'][j] * (x - mean) / math.sqrt(var + variant.eps)
    out_D[j] += 0.0 if bias is None else bias[j]
  return out_D


def rmsnorm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Zhang & Sennrich 2019: g x / sqrt(mean(x^2) + eps)."""
  square = sum(x * x for x in x_D) / len(x_D)
  return np.array(
    [
      g * x / math.sqrt(square + variant.eps)
      for g, x in zip(params['scale'], x_D, strict=True)
    ]
  )


def no_norm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """The input."""
  return x_D


# Residual: one sub-layer around a sequence. -----------------------------------


class ResidualReference(NamedTuple):
  """`connect(x_TD, norm of a vector, sub-layer of a sequence)`."""

  connect: Callable[..., np.ndarray]
  final_norm: bool


def pre(x_TD: np.ndarray, norm: Callable, sublayer: Callable) -> np.ndarray:
  """Pre-norm, x + f(norm(x)): Xiong et al. 2020, figure 1b."""
  out_TD = sublayer(np.array([norm(x_D) for x_D in x_TD]))
  return np.array([add(x_TD[t], out_TD[t]) for t in range(len(x_TD))])


def post(x_TD: np.ndarray, norm: Callable, sublayer: Callable) -> np.ndarray:
  """Post-norm, norm(x + f(x)): Vaswani et al. 2017, section 3.1."""
  out_TD = sublayer(x_TD)
  return np.array([norm(add(x_TD[t], out_TD[t])) for t in range(len(x_TD))])


def add(a_D: Vector, b_D: Vector) -> np.ndarray:
  """The elementwise sum."""
  return np.array([a + b for a, b in zip(a_D, b_D, strict=True)])


# Feed-forward: of one position; none if there is no such sub-layer. -----------


def mlp(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Vaswani et al. 2017, section 3.3; GELU is x Phi(x) (Hendrycks 2016)."""
  hidden_F = linear(x_D, params['up'], optional(params, 'up_bias'))
  for j, h in enumerate(hidden_F):
    if variant.activation == 'relu':
      hidden_F[j] = max(0.0, h)
    else:
      hidden_F[j] = h * 0.5 * (1.0 + math.erf(h / math.sqrt(2.0)))
  return linear(hidden_F, params['down'], optional(params, 'down_bias'))


# Init: the cumulative distribution of one initial value. ----------------------


def normal(std: float) -> Callable[[float], float]:
  """Returns the distribution function of Normal(0, std^2)."""
  return lambda x: 0.5 * (1.0 + math.erf(x / (std * math.sqrt(2.0))))


def uniform(limit: float) -> Callable[[float], float]:
  """Returns the distribution function of Uniform(-limit, limit)."""
  return lambda x: min(1.0, max(0.0, 0.5 * (1.0 + x / limit)))


def gpt2_init(
  variant: Any, role: str, fans: tuple[int, int], num_layers: int
) -> Callable[[float], float]:
  """Radford et al. 2019, section 2.3: 1 / sqrt(N) for N residual layers."""
  shrink = math.sqrt(2 * num_layers) if role == 'residual' else 1.0
  return normal(variant.std / shrink)


def xavier_init(
  variant: Any, role: str, fans: tuple[int, int], num_layers: int
) -> Callable[[float], float]:
  """Glorot & Bengio 2010, equation 16; embeddings have variance 1 / D."""
  if role == 'embedding':
    return normal(variant.gain / math.sqrt(fans[1]))
  return uniform(variant.gain * math.sqrt(6.0) / math.sqrt(fans[0] + fans[1]))


# Schedule and optimiser. ------------------------------------------------------


def cosine(variant: Any, step: int, warmup: int, total: int) -> float:
  """Loshchilov & Hutter 2017, equation 5, with one period."""
  done = min(1.0, max(0.0, (step - warmup) / max(total - warmup, 1)))
  low = variant.final
  return low + 0.5 * (1.0 - low) * (1.0 + math.cos(math.pi * done))


def constant_rate(variant: Any, step: int, warmup: int, total: int) -> float:
  """The peak."""
  return 1.0


def inverse_sqrt(variant: Any, step: int, warmup: int, total: int) -> float:
  """Vaswani et al. 2017, section 5.3, relative to the peak at `warmup`."""
  start = max(warmup, 1)
  return math.sqrt(start) / math.sqrt(max(step, start))


def learning_rate(optimization: Any, step: int, total: int) -> float:
  """Returns the learning rate of a step; linear warm-up, never 0."""
  warmup, schedule = optimization.warmup_steps, optimization.schedule
  rate = optimization.learning_rate
  if step < warmup:
    rate *= (step + 1) / (warmup + 1)
  shape = REFERENCES['schedule'][schedule.tag]
  return rate * shape(schedule, step, warmup, total)


def adamw(variant: Any, grads: Sequence[float]) -> float:
  """Loshchilov & Hutter 2019, algorithm 2, lines 6-10 and 12: last step."""
  mean = square = 0.0
  for g in grads:
    mean = variant.b1 * mean + (1 - variant.b1) * g
    square = variant.b2 * square + (1 - variant.b2) * g * g
  mean_hat = mean / (1 - variant.b1 ** len(grads))
  square_hat = square / (1 - variant.b2 ** len(grads))
  return mean_hat / (math.sqrt(square_hat) + variant.eps)


def sgd(variant: Any, grads: Sequence[float]) -> float:
  """Sutskever et al. 2013, equation 1, the rate taken out: last step."""
  velocity = 0.0
  for g in grads:
    velocity = variant.momentum * velocity + g
  return velocity


def last_parameter(
  variant: Any, values: Sequence[float], total: int, every: int
) -> float:
  """The value after the last step."""
  return values[-1]


def ema(variant: Any, values: Sequence[float], total: int, every: int) -> float:
  """Kingma & Ba 2015, section 7.2, divided by the sum of its weights.

  The first value is that before any step, and has none.
  """
  mean = weights = 0.0
  for value in values[1:]:
    mean = variant.decay * mean + (1 - variant.decay) * value
    weights = variant.decay * weights + (1 - variant.decay)
  return mean / weights if weights else values[0]


def tail(
  variant: Any, values: Sequence[float], total: int, every: int
) -> float:
  """Vaswani et al. 2017, section 6.1: the mean at the last evaluations."""
  evaluations = [n for n in range(1, total + 1) if n % every == 0 or n == total]
  seen = [n for n in evaluations[-variant.count :] if n < len(values)]
  return sum(values[n] for n in seen) / len(seen) if seen else values[-1]


# Of queries and keys, where a normaliser has any.
FEATURES: Mapping[str, Callable[[Vector], Vector]] = {'elu': elu_features}

REFERENCES: Mapping[str, Mapping[str, Any]] = {
  'score': {
    'dot': dot_score,
    'additive': additive_score,
    'l2': l2_score,
    'synthesizer_dense': synthesizer_dense_score,
    'synthesizer_random': synthesizer_random_score,
    'fixed': fixed_score,
  },
  'scale': {
    'rsqrt': rsqrt_scale,
    'none': no_scale,
    'constant': constant_scale,
    'inverse': inverse_scale,
    'learned': learned_scale,
    'logn': logn_scale,
  },
  'normalizer': {
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
  },
  'mask': {
    'causal': causal,
    'full': full,
    'exclude_self': exclude_self,
    'window': window,
    'prefix': prefix,
    'segments': segments,
    'padding': padding,
    'auto': None,  # `masks_of` puts another in its place
  },
  'model': {
    'decoder': FamilyReference('causal'),
    'encoder': FamilyReference('padding'),
    'classifier': FamilyReference('padding', classes=True),
    'encoder_decoder': FamilyReference('causal', source=True),
  },
  'position': {
    'none': PositionReference(),
    'sinusoidal': PositionReference(embed=sinusoidal),
    'learned': PositionReference(embed=learned),
    'rope': PositionReference(rotate=rope),
    'alibi': PositionReference(bias=alibi),
    't5': PositionReference(bias=t5),
  },
  'qk_norm': {
    'none': QkNormReference(same_vector, same_vector),
    'rms': QkNormReference(rms_by('query'), rms_by('key')),
    'layernorm': QkNormReference(layer_by('query'), layer_by('key')),
    'l2': QkNormReference(unit_times_gain, unit),
  },
  'output': {
    'plain': OutputReference(),
    'gate': OutputReference(finish=gate),
    'differential': OutputReference(
      maps=2, join=differential, finish=differential_heads
    ),
    'forget': OutputReference(decay=forget),
    'exclusive_self': OutputReference(finish=exclusive_self),
    'value_residual': OutputReference(values=value_residual),
    'talking_heads': OutputReference(
      mix_logits=talking('logits'), mix_weights=talking('weights')
    ),
  },
  # All compute the same: `attention` below.
  'backend': dict.fromkeys(
    ('auto', 'reference', 'chunked', 'cudnn', 'tokamax')
  ),
  'projections': {
    'qkv': projections_of('query', 'key', 'value'),
    'shared_kv': projections_of('query', 'key', 'key'),
    'shared_qk': projections_of('query', 'query', 'value'),
    'shared_qkv': projections_of('query', 'query', 'query'),
    'raw': ProjectionReference(sliced, sliced, sliced, side_by_side),
    'mla': ProjectionReference(
      latent_query, latent_key, latent_value, merged_by_out
    ),
  },
  'norm': {'layernorm': layernorm, 'rmsnorm': rmsnorm, 'none': no_norm},
  'residual': {
    'pre': ResidualReference(pre, final_norm=True),
    'post': ResidualReference(post, final_norm=False),
  },
  'feedforward': {'mlp': mlp, 'none': None},
  'init': {'gpt2': gpt2_init, 'xavier': xavier_init},
  'schedule': {
    'cosine': cosine,
    'constant': constant_rate,
    'inverse_sqrt': inverse_sqrt,
  },
  'optimizer': {'adamw': adamw, 'sgd': sgd},
  'average': {'none': last_parameter, 'ema': ema, 'tail': tail},
}


# What the variants are parts of. ----------------------------------------------


class Attention(NamedTuple):
  """Outputs of the heads, weights, and the values before they are mixed."""

  out_TNH: np.ndarray
  weights_NTS: np.ndarray
  values_TKH: np.ndarray


def attention(
  arch: Any,
  params: Mapping[str, Params],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
  layer: int = 0,
  first_TKH: np.ndarray | None = None,
  encodes_source: bool = False,
  source: 'Encoded | None' = None,
) -> Attention:
  """Returns attention of one sequence to itself or a source, before W_O.

  Args:
    arch: the choices and sizes.
    params: parameters by part; those of positions are the part `position`.
    x_TD: the sequence.
    segments_T: document of each position.
    layer: number of the block, from 0.
    first_TKH: values of the first layer; none in it.
    encodes_source: it is that of the encoder of a source.
    source: what keys and values are made of; none is the sequence itself.
  """
  projections = REFERENCES['projections'][arch.projections.tag]
  crosses = source is not None
  position = REFERENCES['position']['none' if crosses else arch.position.tag]
  arch = directed(arch, encodes_source)
  qk_norm = REFERENCES['qk_norm'][arch.qk_norm.tag]
  score = arch.score.tag
  if crosses and score in UNREADING:
    score = 'dot'  # to find anything in a source
  outputs = outputs_of(arch, params, crosses)
  length, own = len(x_TD), params['attention']
  source = source or Encoded(x_TD, segments_T)
  y_SD, segments_S = source.x_SD, source.segments_S
  num_heads, shared = arch.num_heads, arch.num_kv_heads or arch.num_heads
  num_maps = max(output.maps for output, _ in outputs)
  masks = [('padding', None)] if crosses else masks_of(arch, encodes_source)
  place_T, place_S = places(masks, segments_T), places(masks, segments_S)
  seen_TS = [
    [
      all(
        REFERENCES['mask'][tag](
          m, place_T[t], place_S[s], segments_T[t], segments_S[s]
        )
        for tag, m in masks
      )
      for s in range(len(y_SD))
    ]
    for t in range(length)
  ]

  features = FEATURES.get(arch.normalizer.tag, np.asarray)

  def side(
    given_TD: np.ndarray,
    at_T: Sequence[int],
    project: Callable,
    norm: Callable,
    count: int,
  ) -> list:
    """Returns x[t][n][m], queries or keys of map m, normalised and rotated."""
    made = []
    for t, x_D in zip(at_T, given_TD, strict=True):
      if score in UNREADING:
        made.append([[[]] * num_maps] * count)
        continue
      heads = project(arch.projections, own, x_D, count)
      made.append(
        [
          [
            features(
              rotated(
                arch, position, norm(arch.qk_norm, params['qk_norm'], part_H), t
              )
            )
            for part_H in np.split(np.asarray(head_H), num_maps)
          ]
          for head_H in heads
        ]
      )
    return made

  queries = side(x_TD, place_T, projections.query, qk_norm.query, num_heads)
  keys = side(y_SD, place_S, projections.key, qk_norm.key, shared)
  values_TKH = np.array(
    [projections.value(arch.projections, own, y_D, shared) for y_D in y_SD]
  )
  mixed_TKH = values_TKH
  for output, given in outputs:
    mixed_TKH = np.array(
      [
        [
          output.values(
            given,
            mixed_TKH[t, k],
            (values_TKH if first_TKH is None else first_TKH)[t, k],
          )
          for k in range(shared)
        ]
        for t in range(len(y_SD))
      ]
    )
  weights_MNTS = np.zeros((num_maps, num_heads, length, len(y_SD)))
  for m in range(num_maps):
    logits_NTS = np.zeros(weights_MNTS.shape[1:])
    for t, s in np.ndindex(length, len(y_SD)):
      scaled_N = [
        scaled(
          arch,
          score,
          params,
          n,
          (queries[t][n][m], keys[s][n * shared // num_heads][m]),
          x_TD[t],
          (place_T[t], place_S[s]),
          sum(seen_TS[t]),
        )
        for n in range(num_heads)
      ]
      for output, given in outputs:
        scaled_N = output.mix_logits(given, scaled_N)
      for n in range(num_heads):
        logit = scaled_N[n]
        if arch.logit_cap is not None:
          logit = arch.logit_cap * math.tanh(logit / arch.logit_cap)
        logit += position.bias(
          arch.position,
          params['position'],
          n,
          num_heads,
          place_T[t],
          place_S[s],
        )
        for output, given in outputs:
          logit += output.decay(given, x_TD, n, t, s)
        logits_NTS[n, t, s] = logit
    for t in range(length):
      for n in range(num_heads):
        weights_MNTS[m, n, t] = REFERENCES['normalizer'][arch.normalizer.tag](
          arch.normalizer, params['normalizer'], n, logits_NTS[n, t], seen_TS[t]
        )
      for s in range(len(y_SD)):
        for output, given in outputs:
          weights_MNTS[m, :, t, s] = output.mix_weights(
            given, weights_MNTS[m, :, t, s]
          )
  weights_NTS = np.zeros(weights_MNTS.shape[1:])
  (join, given), *_ = [
    (output.join, given) for output, given in outputs if output.maps == num_maps
  ]
  out_TNH = np.zeros((length, num_heads, mixed_TKH.shape[2]))
  for n, t, s in np.ndindex(*weights_NTS.shape):
    weights_NTS[n, t, s] = join(given, layer, weights_MNTS[:, n, t, s])
    for h in range(mixed_TKH.shape[2]):
      value = mixed_TKH[s, n * shared // num_heads, h]
      out_TNH[t, n, h] += weights_NTS[n, t, s] * value
  for output, given in outputs:
    for t in range(length):
      out_TNH[t] = output.finish(
        given, out_TNH[t], x_TD[t], None if crosses else mixed_TKH[t], layer
      )
  return Attention(out_TNH, weights_NTS, values_TKH)


class Encoded(NamedTuple):
  """A source as its encoder gives it."""

  x_SD: np.ndarray
  segments_S: Sequence[int]


def rotated(
  arch: Any, position: PositionReference, x_H: Vector, t: int
) -> Vector:
  """Returns a query or key with its last units rotated, or with all of them."""
  still = 0
  if arch.projections.tag == 'mla':
    still = len(x_H) - arch.projections.rope_dim
  turned = position.rotate(arch.position, x_H[still:], t)
  return np.array([*x_H[:still], *turned])


def scaled(
  arch: Any,
  score: str,
  params: Mapping[str, Params],
  n: int,
  pair: tuple[Vector, Vector],
  x_D: Vector,
  places: tuple[int, int],
  seen: int,
) -> float:
  """Returns a score of a query and a key in head n, scaled."""
  logit = REFERENCES['score'][score]
  scale = REFERENCES['scale'][arch.scale.tag]
  # The width of a value where a score reads no query.
  width = len(pair[0]) or arch.head_dim or arch.d_model // arch.num_heads
  return logit(arch.score, params['score'], n, *pair, x_D, *places) * scale(
    arch.scale, params['scale'], n, width, seen
  )


# Scores that read neither queries nor keys, which then are not made.
UNREADING = ('synthesizer_dense', 'synthesizer_random', 'fixed')

# In this order outputs act on the heads.
FINISHING = (
  'plain',
  'value_residual',
  'talking_heads',
  'forget',
  'differential',
  'exclusive_self',
  'gate',
)


# What cross-attention leaves out: it speaks of the own or earlier positions.
ALONE = ('value_residual', 'forget', 'exclusive_self')


def outputs_of(
  arch: Any, params: Mapping[str, Params], crosses: bool
) -> list[tuple[OutputReference, Params]]:
  """Returns what the outputs do and their parameters, in order."""
  tags = sorted((v.tag for v in arch.output), key=FINISHING.index)
  if crosses:
    tags = [tag for tag in tags if tag not in ALONE] or ['plain']
  return [
    (REFERENCES['output'][tag], params.get(f'output_{tag}', {})) for tag in tags
  ]


class Stack(NamedTuple):
  """Where the parameters of some blocks lie, how many, and what they do."""

  path: str
  num_layers: int
  encodes_source: bool
  attends_itself: bool
  source: Encoded | None


def block(
  arch: Any,
  stack: Stack,
  params: Mapping[str, Params],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
  layer: int,
  first_TKH: np.ndarray | None,
) -> tuple[np.ndarray, dict[str, Attention]]:
  """Returns one sequence after one block, and what its attentions were."""
  projections = REFERENCES['projections'][arch.projections.tag]
  normalize = REFERENCES['norm'][arch.norm.tag]
  residual = REFERENCES['residual'][arch.residual.tag]
  feedforward = REFERENCES['feedforward'][arch.feedforward.tag]
  seen = {}

  def norm(part: str) -> Callable[[Vector], Vector]:
    return lambda y_D: normalize(arch.norm, params[part], y_D)

  def attend(y_TD: np.ndarray) -> np.ndarray:
    seen['own'] = attention(
      arch, params, y_TD, segments_T, layer, first_TKH, stack.encodes_source
    )
    return merged('own', params['attention'])

  def cross(y_TD: np.ndarray) -> np.ndarray:
    own = {
      k.removeprefix('cross_'): v for k, v in params.items() if 'cross_' in k
    }
    seen['cross'] = attention(
      arch,
      own | {'position': {}},
      y_TD,
      segments_T,
      layer,
      source=stack.source,
    )
    return merged('cross', own['attention'])

  def merged(which: str, own: Params) -> np.ndarray:
    return np.array(
      [projections.merge(own, out_NH) for out_NH in seen[which].out_TNH]
    )

  def network(y_TD: np.ndarray) -> np.ndarray:
    return np.array(
      [feedforward(arch.feedforward, params['feedforward'], y) for y in y_TD]
    )

  if stack.attends_itself:
    x_TD = residual.connect(x_TD, norm('norm_attention'), attend)
  if stack.source is not None:
    x_TD = residual.connect(x_TD, norm('norm_cross'), cross)
  if feedforward is not None:
    x_TD = residual.connect(x_TD, norm('norm_feedforward'), network)
  return x_TD, seen


def blocks(
  arch: Any,
  params: Mapping[str, np.ndarray],
  stack: Stack,
  x_TD: np.ndarray,
  segments_T: Sequence[int],
) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
  """Returns one sequence after all blocks, and the weights of each."""
  weights, first_TKH = {'own': [], 'cross': []}, None
  # In front of the name of a position's parameters, the encoder's have its own.
  position = 'position_encoder' if stack.encodes_source else 'position'
  parts = [*BLOCK_PARTS, *(f'output_{v.tag}' for v in arch.output)]
  parts += [f'cross_{part}' for part in parts]
  for layer in range(stack.num_layers):
    own = {
      part: {
        k: v[layer] for k, v in below(params, f'{stack.path}/{part}').items()
      }
      for part in [*parts, 'norm_cross']
    } | {'position': below(params, position)}
    x_TD, seen = block(arch, stack, own, x_TD, segments_T, layer, first_TKH)
    if layer == 0 and 'own' in seen:
      first_TKH = seen['own'].values_TKH
    for which, attended in seen.items():
      weights[which].append(attended.weights_NTS)
  return x_TD, weights


class ModelOutput(NamedTuple):
  """Logits over the vocabulary or classes, and weights of all layers.

  Those of self-attention, of attention to the source, and of its encoder.
  """

  logits_BTV: np.ndarray
  weights_LBNTS: np.ndarray | None
  cross_LBNTS: np.ndarray | None
  encoder_LBNTS: np.ndarray | None


def model(
  arch: Any,
  params: Mapping[str, np.ndarray],
  tokens_BT: np.ndarray,
  segments_BT: np.ndarray | None = None,
  source: tuple[np.ndarray, np.ndarray] | None = None,
) -> ModelOutput:
  """Returns what the model returns, from its parameters by path.

  Args:
    arch: the choices and sizes.
    params: `{path: array}`; arrays of blocks have a first axis of layers.
    tokens_BT: token ids.
    segments_BT: document of each token; none is one document.
    source: tokens_BS and segments_BS of what an encoder-decoder reads.
  """
  if segments_BT is None:
    segments_BT = np.ones(np.shape(tokens_BT), int)
  logits, weights = [], {'own': [], 'cross': [], 'encoder': []}
  for b, (tokens_T, segments_T) in enumerate(
    zip(tokens_BT, segments_BT, strict=True)
  ):
    encoded, itself, crosses = None, True, True
    if source is not None:
      itself, crosses = arch.model.self_attention, arch.model.cross_attention
    if source is not None and crosses:
      tokens_S, segments_S = source[0][b], source[1][b]
      depth = arch.model.encoder_layers or arch.num_layers
      x_SD, own = blocks(
        arch,
        params,
        Stack('encoder', depth, True, True, None),
        embedded(
          arch, params, tokens_S, range(len(tokens_S)), 'position_encoder'
        ),
        segments_S,
      )
      x_SD = np.array([finished(arch, params, x, 'norm_encoder') for x in x_SD])
      encoded = Encoded(x_SD, segments_S)
      weights['encoder'].append(own['own'])
    x_TD, own = blocks(
      arch,
      params,
      Stack('blocks', arch.num_layers, False, itself, encoded),
      embedded(
        arch,
        params,
        tokens_T,
        places(masks_of(arch, False), segments_T),
        'position',
      ),
      segments_T,
    )
    for which, layers in own.items():
      weights[which].append(layers)
    x_TD = np.array([finished(arch, params, x, 'norm_final') for x in x_TD])
    logits.append(predicted(arch, params, x_TD, segments_T))

  def of(which: str) -> np.ndarray | None:
    found = np.array(weights[which])
    return np.moveaxis(found, 1, 0) if found.size else None

  return ModelOutput(np.array(logits), of('own'), of('cross'), of('encoder'))


def embedded(
  arch: Any,
  params: Mapping[str, np.ndarray],
  tokens_T: Sequence[int],
  place_T: Sequence[int],
  position: str,
) -> np.ndarray:
  """Returns the input of the first block."""
  embed = REFERENCES['position'][arch.position.tag].embed
  factor = math.sqrt(arch.d_model) if arch.scale_embeddings else 1.0
  return np.array(
    [
      embed(
        arch.position,
        below(params, position),
        [factor * x for x in params['embedding/token'][token]],
        t,
      )
      for t, token in zip(place_T, tokens_T, strict=True)
    ]
  )


def finished(
  arch: Any, params: Mapping[str, np.ndarray], x_D: Vector, part: str
) -> Vector:
  """Returns one position behind the last block of a stack."""
  if not REFERENCES['residual'][arch.residual.tag].final_norm:
    return x_D
  return REFERENCES['norm'][arch.norm.tag](arch.norm, below(params, part), x_D)


def predicted(
  arch: Any,
  params: Mapping[str, np.ndarray],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
) -> list[list[float]]:
  """Returns the logits of each position, or of the classes."""
  if not REFERENCES['model'][arch.model.tag].classes:
    return [unembed(arch, params, x_D) for x_D in x_TD]
  pooled_D = x_TD[0]
  if arch.model.pooling == 'mean':
    real = [t for t, segment in enumerate(segments_T) if segment > 0]
    pooled_D = [
      sum(x_TD[t, d] for t in real) / max(1, len(real))
      for d in range(arch.d_model)
    ]
  own = below(params, 'classes')
  return [list(linear(pooled_D, own['kernel'], optional(own, 'bias')))]


BLOCK_PARTS = (
  'attention',
  'qk_norm',
  'score',
  'scale',
  'normalizer',
  'norm_attention',
  'feedforward',
  'norm_feedforward',
)


def below(params: Mapping[str, np.ndarray], part: str) -> Params:
  """Returns the parameters under one path, by their last name."""
  return {
    path.removeprefix(f'{part}/'): value
    for path, value in params.items()
    if path.startswith(f'{part}/')
  }


def unembed(arch: Any, params: Params, x_D: Vector) -> list[float]:
  """Returns the logits of one position."""
  if arch.tie_embeddings:
    return [dot(x_D, row_D) for row_D in params['embedding/token']]
  return list(linear(x_D, params['unembedding/kernel']))


def cross_entropy(
  logits_BTV: np.ndarray,
  targets_BT: np.ndarray,
  weights_BT: np.ndarray,
  smoothing: float,
) -> tuple[float, float, float]:
  """Returns sums of loss, correct guesses and weights.

  q(v) = (1 - e) [v = target] + e / V (Szegedy et al. 2016, section 7).
  """
  loss = correct = count = 0.0
  batch, length, vocabulary = logits_BTV.shape
  for b in range(batch):
    for t in range(length):
      logits_V, target = logits_BTV[b, t], targets_BT[b, t]
      top = max(logits_V)
      log_total = top + math.log(sum(math.exp(x - top) for x in logits_V))
      own = 0.0
      for v in range(vocabulary):
        q = smoothing / vocabulary + (1 - smoothing) * (v == target)
        own -= q * (logits_V[v] - log_total)
      best = max(range(vocabulary), key=lambda v: logits_V[v])
      loss += weights_BT[b, t] * own
      correct += weights_BT[b, t] * (best == target)
      count += weights_BT[b, t]
  return loss, correct, count


def optimize(
  optimization: Any,
  roles: Mapping[str, str],
  params: Mapping[str, Vector],
  grads: Sequence[Mapping[str, Vector]],
  total: int,
) -> dict[str, np.ndarray]:
  """Returns the parameters (vectors) after one step for each gradient.

  Clip by the global norm (Pascanu et al. 2013), step, then decoupled decay:
  p <- p - rate * (step + decay * p).  Frozen parameters have no gradient.
  """
  new = {path: [float(x) for x in values] for path, values in params.items()}
  pattern, rule = optimization.freeze, optimization.optimizer
  frozen = {p for p in params if pattern is not None and re.search(pattern, p)}
  history: list[dict[str, list[float]]] = []
  for step, given in enumerate(grads):
    own = {p: [float(g) for g in given[p]] for p in params if p not in frozen}
    norm = math.sqrt(sum(g * g for values in own.values() for g in values))
    if optimization.clip is not None and norm > optimization.clip:
      shrink = optimization.clip / norm
      own = {p: [g * shrink for g in values] for p, values in own.items()}
    history.append(own)
    rate = learning_rate(optimization, step, total)
    for path in own:
      decays = optimization.decay == 'all' or roles[path] not in UNDECAYED
      for j, value in enumerate(new[path]):
        past = [earlier[path][j] for earlier in history]
        change = REFERENCES['optimizer'][rule.tag](rule, past)
        change += optimization.weight_decay * value if decays else 0.0
        new[path][j] = value - rate * change
  return {path: np.array(values) for path, values in new.items()}


UNDECAYED = ('scale', 'bias')
