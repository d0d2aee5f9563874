"""Why are attention logits divided by the square root of the head width?

Nothing is trained: the metrics are those of the initial parameters, over ten
seeds.  The paper prints no number; the baselines are the same metrics of
queries and keys that are independent normal numbers, 64 keys a query:
`expected`.  Departures from such numbers:

* The input has 64 positions of uniform vectors, which a matrix maps to
  --d_model and layer normalisation to variance 1.  W_Q and W_K are normal with
  variance 1 / d_model, so that queries and keys have variance 1.
* All queries of a head share W_Q, and all keys W_K; four heads are drawn.
* The y of a pair is half of the variance of its vector, so keys of an example
  lie near one line, and attention is less sharp than of independent keys: the
  likely cause where a claim is not reproduced.
"""

import math

import numpy as np

from experiments.claims.published import PublishedValue
from experiments.claims.rule import Rule
from experiments.claims.rules import Near, Ordering, Within
from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.flags.schema import override
from train.measurements.attention import ENTROPY, SLOPE

PAPER = 'Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1'
KEYS, WIDTH = 64, 256
HEAD_WIDTHS = (4, 16, 64, 256, 1024)
DRAWS = 4000
METRICS = (ENTROPY.name, SLOPE.name)
# Of `expected`, whose draws would delay every command: entropy and slope by the
# width of a head and whether logits are scaled.
BASELINES = {
  (4, True): (3.6960907746169456, 0.1707245877733019),
  (4, False): (2.8025747162149144, 0.2598503195403453),
  (16, True): (3.685485075810805, 0.17686155564231937),
  (16, False): (1.377830151159039, 0.3289382558216634),
  (64, True): (3.6832424138857704, 0.17908828071087263),
  (64, False): (0.5897494141443504, 0.20711331833584706),
  (256, True): (3.6838934372351515, 0.17953494273322856),
  (256, False): (0.2646687839170654, 0.027083560876468148),
  (1024, True): (3.683171630595987, 0.17988282928741645),
  (1024, False): (0.12168127854342876, 0.00025737780766441965),
}


def expected(head_width: int, is_scaled: bool) -> dict[str, float]:
  """Returns the metrics of independent normal queries and keys.

  Args:
    head_width: of queries and keys.
    is_scaled: whether logits are divided by its square root.

  Returns:
    Mean entropy, and median norm of the Jacobian, by the name of the metric.
  """
  rng = np.random.default_rng(0)
  # Given a query q, its logits are independent normal numbers of variance q.q.
  size_R = np.sqrt(rng.chisquare(head_width, DRAWS))
  if is_scaled:
    size_R /= np.sqrt(head_width)
  logits_RS = size_R[:, None] * rng.standard_normal((DRAWS, KEYS))
  p_RS = np.exp(logits_RS - logits_RS.max(-1, keepdims=True))
  p_RS /= p_RS.sum(-1, keepdims=True)
  squares_R = (p_RS**2).sum(-1)
  slope_R = squares_R - 2 * (p_RS**3).sum(-1) + squares_R**2
  logs_RS = np.log(np.where(p_RS > 0, p_RS, 1.0))
  return {
    ENTROPY.name: float(-(p_RS * logs_RS).sum(-1).mean()),
    SLOPE.name: float(np.median(np.sqrt(np.maximum(slope_R, 0.0)))),
  }


def _name(head_width: int, is_scaled: bool) -> str:
  if is_scaled and head_width == HEAD_WIDTHS[0]:
    return BASE
  return f'{head_width} wide' + ('' if is_scaled else ', no scale')


def _row(head_width: int, is_scaled: bool) -> Row:
  changes = {} if is_scaled else {'scale': 'none'}
  if head_width != HEAD_WIDTHS[0]:
    changes['head_dim'] = str(head_width)
  return Row(_name(head_width, is_scaled), changes)


def _as_expected(
  head_width: int, is_scaled: bool, metric: str
) -> PublishedValue:
  """Returns the claim that a metric is that of normal queries and keys."""
  baseline = BASELINES[head_width, is_scaled]
  value = dict(zip(METRICS, baseline, strict=True))[metric]
  # A twentieth of the largest value there is.
  most = {ENTROPY.name: math.log(KEYS), SLOPE.name: 0.5}
  return _claim(
    _name(head_width, is_scaled),
    metric,
    value,
    f'{PAPER}; computed, of independent normal queries and keys',
    Near(0.05 * most[metric]),
  )


def _claim(
  row: str, metric: str, value: float | None, source: str, rule: Rule
) -> PublishedValue:
  return PublishedValue(row, metric, value, source, rule, seeds=10)


PAIRS = tuple(
  (width, scaled) for width in HEAD_WIDTHS for scaled in (True, False)
)

EXPERIMENT = Experiment(
  name='softmax_scale',
  title='Why divide by the square root of the head width?',
  claim=(
    'The logits of wide heads are large, so the softmax is nearly one-hot and '
    'has hardly any slope; divided by the square root of the width, they are '
    'the same for every width'
  ),
  citation=(
    'Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762, '
    'section 3.2.1'
  ),
  kind='A-init',
  cost='seconds a row, most of them compilation',
  base=override(
    Config(),
    {
      'task': 'regression',
      'task.dim': str(WIDTH - 1),
      'task.held': '16',
      'model': 'encoder',
      'read_out': 'last',
      'steps': '0',
      'measure': 'attention',
      'measure_examples': '16',
      'eval_examples': '16',
      'seq_len': str(KEYS),
      'd_model': str(WIDTH),
      'num_layers': '1',
      'num_heads': '4',
      'head_dim': str(HEAD_WIDTHS[0]),
      'position': 'none',
      'init.std': str(WIDTH**-0.5),
      'norm': 'layernorm',
      'feedforward': 'none',
    },
  ),
  rows=tuple(_row(*pair) for pair in PAIRS),
  seeds=10,
  smoke={'seq_len': '8', 'd_model': '16', 'task.dim': '4', 'task.held': '2'},
  metric=SLOPE.name,
  published=(
    *(_as_expected(*pair, metric) for pair in PAIRS for metric in METRICS),
    _claim(
      _name(1024, False),
      SLOPE.name,
      None,
      f'{PAPER}: regions where the softmax has extremely small gradients',
      Within(high=0.01),
    ),
    _claim(
      _name(4, False),
      ENTROPY.name,
      None,
      f'{PAPER}: dot products grow with the width',
      Ordering(tuple(_name(width, False) for width in HEAD_WIDTHS[::-1]), 0.1),
    ),
  ),
)
