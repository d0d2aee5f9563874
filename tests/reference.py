"""The specification: every variant as float64 loops, written from the papers.

Explicit loops over batch, head and position, nothing vectorised, and nothing
imported from the code under test: variants come in as values whose numbers are
read, parameters as arrays by their paths.  `REFERENCES[union][tag]` holds what
a member of a union means; a member without an entry fails the collection of
`test_reference.py`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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


# Scale: what a logit is multiplied by. ----------------------------------------


def rsqrt_scale(variant: Any, head_dim: int) -> float:
  """1 / sqrt(d_k)."""
  return 1.0 / math.sqrt(head_dim)


def no_scale(variant: Any, head_dim: int) -> float:
  """Nothing."""
  return 1.0


def constant_scale(variant: Any, head_dim: int) -> float:
  """The number."""
  return variant.value


# Normalizer: from the logits of one query to its weights. ---------------------


def softmax(variant: Any, logits_S: Vector, seen_S: Sequence[bool]) -> Vector:
  """The softmax over the keys that are seen; zeros if none is."""
  seen = [s for s in range(len(logits_S)) if seen_S[s]]
  weights_S = np.zeros(len(logits_S))
  if not seen:
    return weights_S
  top = max(logits_S[s] for s in seen)
  total = 0.0
  for s in seen:
    total += math.exp(logits_S[s] - top)
  for s in seen:
    weights_S[s] = math.exp(logits_S[s] - top) / total
  return weights_S


def unnormalized(
  variant: Any, logits_S: Vector, seen_S: Sequence[bool]
) -> Vector:
  """The logits, zero where a key is not seen."""
  return np.array(
    [x if seen else 0.0 for x, seen in zip(logits_S, seen_S, strict=True)]
  )


# Mask: whether the query at t sees the key at s. ------------------------------


def causal(variant: Any, t: int, s: int) -> bool:
  """The past and itself."""
  return s <= t


def full(variant: Any, t: int, s: int) -> bool:
  """Everything."""
  return True


def exclude_self(variant: Any, t: int, s: int) -> bool:
  """All but itself."""
  return s != t


def sees(masks: Iterable[Any], t: int, s: int) -> bool:
  """Whether all of the masks let the query at t see the key at s."""
  return all(REFERENCES['mask'][m.tag](m, t, s) for m in masks)


# Position: added to an embedding, or a rotation of a query or key. ------------


class PositionReference(NamedTuple):
  """`embed(variant, params, x_D, t)` and `rotate(variant, x_H, t)`."""

  embed: Callable[[Any, Params, Vector, int], Vector]
  rotate: Callable[[Any, Vector, int], Vector]


def same_embedding(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """The embedding as it is."""
  return x_D


def same_head(variant: Any, x_H: Vector, t: int) -> Vector:
  """The query or key as it is."""
  return x_H


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


REFERENCES: Mapping[str, Mapping[str, Any]] = {
  'scale': {
    'rsqrt': rsqrt_scale,
    'none': no_scale,
    'constant': constant_scale,
  },
  'normalizer': {'softmax': softmax, 'none': unnormalized},
  'mask': {'causal': causal, 'full': full, 'exclude_self': exclude_self},
  'position': {
    'none': PositionReference(same_embedding, same_head),
    'sinusoidal': PositionReference(sinusoidal, same_head),
    'learned': PositionReference(learned, same_head),
    'rope': PositionReference(same_embedding, rope),
  },
  'projections': {
    'qkv': projections_of('query', 'key', 'value'),
    'shared_kv': projections_of('query', 'key', 'key'),
    'shared_qk': projections_of('query', 'query', 'value'),
    'shared_qkv': projections_of('query', 'query', 'query'),
    'raw': ProjectionReference(sliced, sliced, sliced, side_by_side),
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
}


# What the variants are parts of. ----------------------------------------------


def attend(
  q_TNH: np.ndarray,
  k_SNH: np.ndarray,
  v_SNH: np.ndarray,
  seen_TS: np.ndarray,
  scale: Any,
  normalizer: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns out_TNH and weights_NTS: Vaswani et al. 2017, equation 1."""
  num_queries, num_heads, head_dim = q_TNH.shape
  out_TNH = np.zeros((num_queries, num_heads, v_SNH.shape[2]))
  weights_NTS = np.zeros((num_heads, num_queries, len(k_SNH)))
  factor = REFERENCES['scale'][scale.tag](scale, head_dim)
  normalize = REFERENCES['normalizer'][normalizer.tag]
  for n in range(num_heads):
    for t in range(num_queries):
      logits_S = [
        factor * dot(q_TNH[t, n], k_SNH[s, n]) for s in range(len(k_SNH))
      ]
      weights_S = normalize(normalizer, logits_S, seen_TS[t])
      for s in range(len(k_SNH)):
        weights_NTS[n, t, s] = weights_S[s]
        for h in range(v_SNH.shape[2]):
          out_TNH[t, n, h] += weights_S[s] * v_SNH[s, n, h]
  return out_TNH, weights_NTS


def block(
  arch: Any, params: Mapping[str, Params], x_TD: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns one sequence after one block, and weights_NTS."""
  position = REFERENCES['position'][arch.position.tag]
  projections = REFERENCES['projections'][arch.projections.tag]
  normalize = REFERENCES['norm'][arch.norm.tag]
  residual = REFERENCES['residual'][arch.residual.tag]
  feedforward = REFERENCES['feedforward'][arch.feedforward.tag]
  length, seen = len(x_TD), []

  def norm(part: str) -> Callable[[Vector], Vector]:
    return lambda y_D: normalize(arch.norm, params[part], y_D)

  def heads(project: Callable, y_TD: np.ndarray) -> list[np.ndarray]:
    own = params['attention']
    return [project(arch.projections, own, y_D, arch.num_heads) for y_D in y_TD]

  def rotated(heads_TNH: list[np.ndarray]) -> np.ndarray:
    return np.array(
      [
        [position.rotate(arch.position, x_H, t) for x_H in heads_TNH[t]]
        for t in range(length)
      ]
    )

  def attention(y_TD: np.ndarray) -> np.ndarray:
    mask_TS = np.array(
      [[sees(arch.mask, t, s) for s in range(length)] for t in range(length)]
    )
    out_TNH, weights_NTS = attend(
      rotated(heads(projections.query, y_TD)),
      rotated(heads(projections.key, y_TD)),
      np.array(heads(projections.value, y_TD)),
      mask_TS,
      arch.scale,
      arch.normalizer,
    )
    seen.append(weights_NTS)
    return np.array(
      [projections.merge(params['attention'], out_NH) for out_NH in out_TNH]
    )

  def network(y_TD: np.ndarray) -> np.ndarray:
    return np.array(
      [feedforward(arch.feedforward, params['feedforward'], y) for y in y_TD]
    )

  x_TD = residual.connect(x_TD, norm('norm_attention'), attention)
  if feedforward is not None:
    x_TD = residual.connect(x_TD, norm('norm_feedforward'), network)
  return x_TD, seen[0]


class DecoderOutput(NamedTuple):
  """Logits over the vocabulary, and the attention weights of all layers."""

  logits_BTV: np.ndarray
  weights_LBNTS: np.ndarray


def decoder(
  arch: Any, params: Mapping[str, np.ndarray], tokens_BT: np.ndarray
) -> DecoderOutput:
  """Returns what the model returns, from its parameters by path.

  Args:
    arch: the choices and sizes.
    params: `{path: array}`; arrays under `blocks/` have a first axis of layers.
    tokens_BT: token ids.
  """
  position = REFERENCES['position'][arch.position.tag]
  table_VD = params['embedding/token']
  logits, weights = [], []
  for tokens_T in tokens_BT:
    x_TD = np.array(
      [
        position.embed(
          arch.position, below(params, 'position'), table_VD[token], t
        )
        for t, token in enumerate(tokens_T)
      ]
    )
    weights.append([])
    for layer in range(arch.num_layers):
      own = {
        part: {k: v[layer] for k, v in below(params, f'blocks/{part}').items()}
        for part in BLOCK_PARTS
      }
      x_TD, weights_NTS = block(arch, own, x_TD)
      weights[-1].append(weights_NTS)
    logits.append([unembed(arch, params, x_D) for x_D in x_TD])
  return DecoderOutput(np.array(logits), np.moveaxis(np.array(weights), 1, 0))


BLOCK_PARTS = ('attention', 'norm_attention', 'feedforward', 'norm_feedforward')


def below(params: Mapping[str, np.ndarray], part: str) -> Params:
  """Returns the parameters under one path, by their last name."""
  return {
    path.removeprefix(f'{part}/'): value
    for path, value in params.items()
    if path.startswith(f'{part}/')
  }


def unembed(arch: Any, params: Params, x_D: Vector) -> list[float]:
  """Returns the logits of one position."""
  if REFERENCES['residual'][arch.residual.tag].final_norm:
    norm = REFERENCES['norm'][arch.norm.tag]
    x_D = norm(arch.norm, below(params, 'norm_final'), x_D)
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
