"""Attention alone makes all tokens equal, doubly exponentially in depth.

Nothing is trained: the metrics are those of the initial parameters, over ten
seeds.  Departures from the paper, whose X is a matrix of normal numbers:

* X has the embeddings of 32 tokens that are drawn from 26, so some rows are
  equal from the start.  Each embedding is Normal(0, 1): --init=xavier draws
  Normal(0, 1 / d_model) and --scale_embeddings undoes the scale.  All seeds
  have the same tokens, and different embeddings.
* The Xavier limits of W_Q, W_K and W_V are those of all heads as one matrix; of
  each head separately, they would give larger queries and keys.
* The norm comes before each sub-layer, with or without a skip connection, and
  the residual stream is measured before the final norm.
* No biases; feed-forward is GELU, 4 x --d_model wide.

The intervals after 12 layers with skip connections were measured with a norm;
without one the stream grows, attention gets sharp, and a seed may fall below.
"""

import dataclasses
import itertools
import math

from experiments.claims.metrics import CurveAxis, Measurements
from experiments.claims.published import PublishedValue
from experiments.claims.rule import Claim, Rule, RuleResult, of_seeds
from experiments.claims.rules import Within
from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.core.metric import at_layer
from train.flags.schema import override

RATIO = 'rank_residual'
PAPER = 'Dong et al. 2021, arXiv:2103.03404'
MLP, SKIP = {'feedforward': 'mlp'}, {'residual': 'pre'}
NORM = {'norm': 'layernorm'}


@dataclasses.dataclass(frozen=True)
class Doubling(Rule):
  """In each seed, -log of the metric at least doubles from layer to layer.

  Attributes:
    first: first layer that counts.
    last: last layer that counts.
  """

  first: int
  last: int

  @property
  def axes(self) -> frozenset[CurveAxis]:
    return frozenset(('layer',))

  def accepts(self, claim: Claim) -> str:
    return (
      f'-log at least doubles at each layer from {self.first} to {self.last} '
      'in every seed'
    )

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    series = found.along('layer', claim.row, claim.metric)
    good = sum(self._doubles(dict(points)) for points in series.values())
    return of_seeds(good, len(series), 1.0)

  def _doubles(self, ratios: dict[float, float]) -> bool:
    """Returns whether -log of the ratios doubles in one seed."""
    layers = range(self.first, self.last + 1)
    # A ratio of 0 cannot fall any further.
    here = [ratios.get(n, 1.0) for n in layers]
    logs = [-math.log(x) if x > 0 else math.inf for x in here]
    return all(
      low > 0 and high >= 2 * low for low, high in itertools.pairwise(logs)
    )


def _bounded(
  row: str, layer: int, low: float, high: float, claim: str
) -> PublishedValue:
  """Returns the claim that the ratio is in an interval in every seed."""
  rule = Within(low, high, share=1.0)
  source = f'{PAPER}: {claim}'
  return PublishedValue(
    row, at_layer(RATIO, layer), None, source, rule, seeds=10
  )


EXPERIMENT = Experiment(
  name='rank_collapse',
  title='Does attention alone make all tokens equal?',
  claim=(
    'Without skip connections all rows of the residual stream become equal, '
    'doubly exponentially in depth; skip connections prevent that, '
    'feed-forward layers slow it'
  ),
  citation=(
    'Dong, Cordonnier & Loukas 2021, Attention is not all you need, '
    'arXiv:2103.03404'
  ),
  kind='A-init',
  cost='seconds a row, most of them compilation',
  base=override(
    Config(),
    {
      'task': 'most_frequent',
      'task.symbols': '26',
      'model': 'classifier',
      'steps': '0',
      'measure': RATIO,
      'measure_examples': '1',
      'eval_examples': '16',
      'seq_len': '32',
      'd_model': '64',
      'num_heads': '4',
      'num_layers': '12',
      'position': 'none',
      'init': 'xavier',
      'scale_embeddings': 'true',
      'norm': 'none',
      'residual': 'none',
      'feedforward': 'none',
    },
  ),
  rows=(
    Row(BASE, {}),
    Row('+MLP', MLP),
    Row('+skip', SKIP),
    Row('+skip +MLP', SKIP | MLP),
    Row('LN', NORM),
    Row('LN +MLP', NORM | MLP),
    Row('LN +skip', NORM | SKIP),
    Row('LN +skip +MLP', NORM | SKIP | MLP),
  ),
  seeds=10,
  smoke={'seq_len': '8', 'd_model': '16', 'num_heads': '2'},
  metric=RATIO,
  published=(
    _bounded(BASE, 3, 0.0, 1e-4, 'attention alone loses rank'),
    _bounded('LN', 4, 0.0, 1e-4, 'and with layer normalisation'),
    *(
      PublishedValue(
        row,
        RATIO,
        None,
        f'{PAPER}: doubly exponentially, at a cubic rate',
        Doubling(2, 4),
        seeds=10,
      )
      for row in (BASE, 'LN')
    ),
    _bounded('+MLP', 4, 0.0, 1e-5, 'MLPs alone do not prevent it'),
    _bounded('LN +MLP', 4, 0.0, 1e-5, 'MLPs alone do not prevent it'),
    *(
      _bounded(
        f'{norm}+skip{more}', 12, low, high, 'skip connections prevent it'
      )
      for norm in ('', 'LN ')
      for more, low, high in (('', 0.15, 0.6), (' +MLP', 0.3, 0.7))
    ),
  ),
)
