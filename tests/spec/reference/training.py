"""Initial values, losses, schedules, optimisers and averages."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector, dot

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


class Rates(NamedTuple):
  """Of a parameter: its peak learning rate, how that moves, its decay."""

  peak: float
  warmup: int
  schedule: Any
  decay: float


def rates(optimization: Any, path: str = '', what: Any = None) -> Rates:
  """Returns the rates of a parameter; of no path, those that all share.

  The optimiser may set a rate; the first group that names the path or the kind
  changes it.
  """
  peak, decay = optimization.learning_rate, 0.0
  if what is not None:
    if optimization.decay == 'all' or what.role.value not in UNDECAYED:
      decay = optimization.weight_decay
    if optimization.optimizer.tag == 'muon' and not hidden(what):
      rate = optimization.optimizer.adam_rate
      peak = peak if rate is None else rate
  found = Rates(peak, optimization.warmup_steps, optimization.schedule, decay)
  if what is None:
    return found
  for group in optimization.groups:
    kinds = re.fullmatch('kind=(.*)', group.which)
    if kinds and what.role.value not in kinds[1].split('|'):
      continue
    if not kinds and not re.search(group.which, path):
      continue
    found = found._replace(peak=peak * group.factor)
    if group.warmup_steps is not None:
      found = found._replace(warmup=group.warmup_steps)
    if group.schedule.tag != 'shared':
      found = found._replace(schedule=group.schedule)
    if group.weight_decay is not None:
      found = found._replace(decay=group.weight_decay)
    break
  return found


def learning_rate(own: Rates, step: int, total: int) -> float:
  """Returns the learning rate of a step; linear warm-up, never 0."""
  rate = own.peak
  if step < own.warmup:
    rate *= (step + 1) / (own.warmup + 1)
  shape = SCHEDULES[own.schedule.tag]
  return rate * shape(own.schedule, step, own.warmup, total)


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


def each(loop: Callable[[Any, Sequence[float]], float]) -> Any:
  """Returns the loop of an optimiser that looks at each number by itself."""

  def last_step(
    variant: Any, what: Any, grads: Sequence[np.ndarray]
  ) -> np.ndarray:
    del what
    out = np.zeros(grads[0].shape)
    for place in np.ndindex(*out.shape):
      out[place] = loop(variant, [float(g[place]) for g in grads])
    return out

  return last_step


def hidden(what: Any) -> bool:
  """Returns whether a parameter is a matrix of a block."""
  return what.depth is not None and what.role.value in ('matrix', 'residual')


def muon(variant: Any, what: Any, grads: Sequence[np.ndarray]) -> np.ndarray:
  """Jordan 2024, kellerjordan.github.io/posts/muon: last step.

  The newest mean gradient as rows (inputs) and columns (outputs), of each layer
  by itself: Newton-Schulz takes each singular value through the quintic, which
  leaves the singular vectors as they are.
  """
  if not hidden(what):
    return each(adamw)(variant, what, grads)
  rows = math.prod(what.shape[: what.axes.index('->')])
  columns = math.prod(what.shape) // rows
  mu, out = variant.momentum, np.zeros(grads[0].shape)
  for layer in range(what.depth):
    mean = np.zeros((rows, columns))
    for grad in grads:
      g = grad[layer].reshape(rows, columns)
      mean = mu * mean + (1 - mu) * g
    if variant.nesterov:
      mean = mu * mean + (1 - mu) * g
    u, values, v = np.linalg.svd(mean, full_matrices=False)
    values = [x / (math.sqrt(sum(values**2)) + 1e-7) for x in values]
    for _ in range(variant.iterations):
      values = [3.4445 * x - 4.775 * x**3 + 2.0315 * x**5 for x in values]
    factor = {
      'jordan': max(1, columns / rows) ** 0.5,
      'moonlight': 0.2 * max(rows, columns) ** 0.5,
      'spectral': (columns / rows) ** 0.5,
    }[variant.factor]
    out[layer] = (factor * (u * values) @ v).reshape(what.shape)
  return out


# What follows an update: (variant, table, state, parameters, step) to both. At
# step 0, before the first update, there is no state.


def unchanged(
  variant: Any, table: Any, state: Any, params: Params, step: int
) -> tuple[Params, Any]:
  """Nothing."""
  return params, None


def sphere(
  variant: Any, table: Any, state: Any, params: Params, step: int
) -> tuple[Params, Any]:
  """Loshchilov et al. 2024, section 2: unit vectors along D."""
  new = dict(params)
  for path, what in table.items():
    letters = what.letters
    if what.role.value in (*UNDECAYED, 'state') or 'D' not in letters:
      continue
    along = letters.index('D') - len(letters)
    p = np.moveaxis(np.array(params[path]), along, -1)
    for place in np.ndindex(*p.shape[:-1]):
      p[place] = p[place] / math.sqrt(dot(p[place], p[place]))
    new[path] = np.moveaxis(p, -1, along)
  return new, None


def lookahead(
  variant: Any, table: Any, state: Any, params: Params, step: int
) -> tuple[Params, Any]:
  """Zhang et al. 2019, algorithm 1."""
  if step == 0:
    return params, params
  if step % variant.k:
    return params, state
  slow = {p: x + variant.share * (params[p] - x) for p, x in state.items()}
  return slow, slow


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


# Losses and predictions of vectors. -------------------------------------------


def squared(
  outputs_BTO: np.ndarray, targets_BTO: np.ndarray, weights_BT: np.ndarray
) -> tuple[float, float, float]:
  """Returns the sums of 1/2 |f - y|^2, of correct guesses, and of weights."""
  loss = count = 0.0
  for b, t in np.ndindex(*weights_BT.shape):
    total = 0.0
    for f, y in zip(outputs_BTO[b, t], targets_BTO[b, t], strict=True):
      total += (f - y) ** 2
    loss += weights_BT[b, t] * total / 2
    count += weights_BT[b, t]
  return loss, 0.0, count


def gradient_step(
  x_NI: np.ndarray, y_N: Vector, query_I: Vector, rate: float
) -> float:
  """Returns what w predicts after one step on sum_i (w.x_i - y_i)^2 / 2."""
  w_I = np.zeros(len(query_I))
  slope_I = np.zeros(len(query_I))
  for x_I, y in zip(x_NI, y_N, strict=True):
    error = dot(w_I, x_I) - y
    for i, x in enumerate(x_I):
      slope_I[i] += error * x
  return dot(w_I - rate * slope_I, query_I)


# Start: the initial values of one parameter, from those that were drawn. ------


def as_drawn(
  variant: Any, path: str, axes: str, drawn: np.ndarray
) -> np.ndarray:
  """What was drawn."""
  del variant, path, axes
  return drawn


def equal_heads(
  variant: Any, path: str, axes: str, drawn: np.ndarray
) -> np.ndarray:
  """Each number is that of head 0, along the axes of heads, N and K."""
  del variant, path
  out = np.zeros(drawn.shape)
  for place in np.ndindex(*drawn.shape):
    first = (0 if a in 'NK' else n for a, n in zip(axes, place, strict=True))
    out[place] = drawn[tuple(first)]
  return out


def step_by_hand(
  variant: Any, path: str, axes: str, drawn: np.ndarray
) -> np.ndarray:
  """W_V and W_O keep y, the last number of a token; W_Q and W_K the others."""
  name = path.rpartition('/')[2]
  keeps = {
    'query': (1.0, 0.0),
    'key': (1.0, 0.0),
    'value': (0.0, 1.0),
    'out': (0.0, variant.rate),
  }
  if name not in keeps:
    return drawn
  out = np.zeros(drawn.shape)
  for place in np.ndindex(*drawn.shape):
    at = dict(zip(axes, place, strict=True))
    last = drawn.shape[axes.index('D')] - 1
    if at['D'] == at['H']:
      out[place] = keeps[name][at['D'] == last]
  return out


# What the variants are parts of. ----------------------------------------------


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
  table: Mapping[str, Any],
  params: Params,
  grads: Sequence[Params],
  total: int,
) -> dict[str, np.ndarray]:
  """Returns the parameters after one step for each gradient.

  Clip by the global norm (Pascanu et al. 2013), step, then decoupled decay:
  p <- p - rate * (step + decay * p), then what follows an update.  Frozen
  parameters and states have no gradient, and the frozen stay as they are.
  """
  pattern, rule = optimization.freeze, optimization.optimizer
  frozen = {p for p in params if pattern is not None and re.search(pattern, p)}
  states = {p for p, what in table.items() if what.role.value == 'state'}
  free = {p: what for p, what in table.items() if p not in frozen}
  kept: dict[str, Any] = {}

  def follow(params: Params, step: int) -> dict[str, np.ndarray]:
    for one in optimization.after_update:
      loop = AFTER_UPDATES[one.tag]
      params, kept[one.tag] = loop(one, free, kept.get(one.tag), params, step)
    return dict(params)

  new = follow({p: np.array(x, np.float64) for p, x in params.items()}, 0)
  history: list[Params] = []
  for step, given in enumerate(grads):
    own = {p: given[p] for p in params if p not in frozen | states}
    norm = math.sqrt(sum(float(np.sum(g * g)) for g in own.values()))
    if optimization.clip is not None and norm > optimization.clip:
      own = {p: g * (optimization.clip / norm) for p, g in own.items()}
    history.append(own)
    for path in own:
      about = rates(optimization, path, table[path])
      past = [earlier[path] for earlier in history]
      change = OPTIMIZERS[rule.tag](rule, table[path], past)
      change = change + about.decay * new[path]
      new[path] = new[path] - learning_rate(about, step, total) * change
    new = follow(new, step + 1)
  return new


UNDECAYED = ('scale', 'bias')


INITS: dict[str, Any] = {'gpt2': gpt2_init, 'xavier': xavier_init}

STARTS: dict[str, Any] = {
  'drawn': as_drawn,
  'equal_heads': equal_heads,
  'gradient_step': step_by_hand,
}

SCHEDULES: dict[str, Any] = {
  'cosine': cosine,
  'constant': constant_rate,
  'inverse_sqrt': inverse_sqrt,
}

OPTIMIZERS: dict[str, Any] = {
  'adamw': each(adamw),
  'sgd': each(sgd),
  'muon': muon,
}

AFTER_UPDATES: dict[str, Any] = {
  'none': unchanged,
  'sphere': sphere,
  'lookahead': lookahead,
}

AVERAGES: dict[str, Any] = {'none': last_parameter, 'ema': ema, 'tail': tail}
