"""Which gradients does a norm before, or after, each sub-layer start with?

Nothing is trained: the metric is that of the initial parameters, over ten
seeds.  Departures from the paper, which trains on IWSLT 2014:

* The inputs are random digits, to be reversed, so that nothing is fetched; the
  stack is an encoder with a loss at every position.
* Learned positions; with the norm before sub-layers a final norm follows the
  last layer, as in the paper.

The paper's picture of all layers (with the norm after, gradients grow with
depth; before, they are level) is of its data, and is not claimed here.
"""

from experiments.claims.published import PublishedValue
from experiments.claims.rules import Ratio
from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.flags.schema import override

PAPER = 'Xiong et al. 2020, arXiv:2002.04745'
NORM = 'gradient_norm'
DEPTHS = (2, 6, 12, 24)


def _name(residual: str, depth: int) -> str:
  if (residual, depth) == ('post', DEPTHS[0]):
    return BASE
  return f'{residual} {depth}'


def _row(residual: str, depth: int) -> Row:
  changes = {'residual': 'pre'} if residual == 'pre' else {}
  if depth != DEPTHS[0]:
    changes['num_layers'] = str(depth)
  return Row(_name(residual, depth), changes)


def _claim(
  residual: str, depth: int, value: float, theory: str, low: float, high: float
) -> PublishedValue:
  """Returns the claim on the ratio to the fewest layers of the same kind."""
  return PublishedValue(
    _name(residual, depth),
    NORM,
    value,
    f'{PAPER}, theorem 1: {theory}; relative to {DEPTHS[0]} layers',
    Ratio(_name(residual, DEPTHS[0]), low, high),
    seeds=10,
  )


EXPERIMENT = Experiment(
  name='norm_placement',
  title='Which gradients does a norm before, or after, sub-layers start with?',
  claim=(
    'With the norm after each sub-layer, the gradient of the last layer is '
    'large at every depth; with the norm before, it falls as 1 / sqrt(depth)'
  ),
  citation=(
    'Xiong et al. 2020, On layer normalization in the Transformer '
    'architecture, arXiv:2002.04745'
  ),
  kind='A-init',
  cost='seconds a row, most of them compilation',
  base=override(
    Config(),
    {
      'task': 'digits',
      'model': 'encoder',
      'steps': '0',
      'measure': NORM,
      'measure.of': 'feedforward/down',
      'measure_examples': '32',
      'eval_examples': '32',
      'seq_len': '32',
      'd_model': '128',
      'num_heads': '4',
      'num_layers': str(DEPTHS[0]),
      'feedforward.activation': 'relu',
      'feedforward.width': '512',
      'norm': 'layernorm',
      'residual': 'post',
      'init': 'xavier',
      'scan_layers': 'true',
    },
  ),
  rows=tuple(_row(how, depth) for how in ('post', 'pre') for depth in DEPTHS),
  seeds=10,
  smoke={'seq_len': '8', 'd_model': '16', 'feedforward.width': '16'},
  metric=NORM,
  published=(
    _claim('post', 24, 1.0, 'O(d sqrt(ln d))', 0.5, 2.0),
    _claim('pre', 12, (2 / 12) ** 0.5, 'O(d sqrt(ln d / L))', 0.3, 0.65),
    _claim('pre', 24, (2 / 24) ** 0.5, 'O(d sqrt(ln d / L))', 0.2, 0.5),
  ),
)
