"""Do Transformers need three projections?  Five tasks on digits, each a block.

Departures from the paper: every example is drawn anew, instead of two epochs
over 50,000; the unembedding is one linear map; 1,000 examples are evaluated,
not 10,000; one depth, width and number of heads (2, 64, 2), while the published
numbers are means over a grid of these.  The row raw is ours.
"""

from experiments.claims.published import PublishedValue
from experiments.claims.rules import Within, above, below
from experiments.experiment import BASE, Experiment, ExperimentBlock, Row
from train.config.config import Config
from train.flags.schema import override

TASKS = ('reverse', 'sort', 'sub', 'swap', 'copy')
SOURCE = 'Kayyam et al. 2026, synthetic tasks, mean over a grid of models'
GRID = 'a mean over 2 and 4 layers, 2 and 4 heads, widths 64 and 256'


def _target(row: str, value: float, rule: Within) -> PublishedValue:
  """Returns a published accuracy (read in two notes, not in the paper)."""
  return PublishedValue(
    row=row,
    metric='val_accuracy',
    value=value,
    source=SOURCE,
    rule=rule,
    beyond=GRID,
    seeds=3,
  )


EXPERIMENT = Experiment(
  name='projections',
  title='Do Transformers need three projections?',
  claim=(
    'Sharing keys with values, or with queries, costs nothing on these tasks; '
    'sharing all three costs accuracy where the order of tokens matters.'
  ),
  citation=(
    'Kayyam et al. 2026, Do Transformers Need Three Projections?, '
    'arXiv:2606.04032; the row raw is ours'
  ),
  kind='B',
  cost='about two hours on two cores',
  base=override(
    Config(),
    {
      'task': 'digits',
      'model': 'encoder',
      'num_layers': '2',
      'd_model': '64',
      'num_heads': '2',
      'feedforward.width': '128',
      'feedforward.activation': 'relu',
      'residual': 'post',
      'norm': 'layernorm',
      'position': 'sinusoidal',
      'use_bias': 'true',
      'tie_embeddings': 'false',
      'dropout_residual': '0.1',
      'seq_len': '64',
      'batch_size': '128',
      'steps': '780',
      'warmup_steps': '5',
      'learning_rate': '1e-3',
      'weight_decay': '0',
      'clip': '5',
      'eval_every': '195',
      'eval_examples': '1000',
    },
  ),
  rows=(
    Row(BASE, {}),
    Row('Q=K', {'projections': 'shared_qk'}),
    Row('K=V', {'projections': 'shared_kv'}),
    Row('Q=K=V', {'projections': 'shared_qkv'}),
    Row('raw', {'projections': 'raw'}),
  ),
  seeds=3,
  smoke={
    'steps': '4',
    'batch_size': '2',
    'seq_len': '8',
    'd_model': '16',
    'feedforward.width': '16',
    'eval_examples': '4',
    'eval_every': '2',
    'warmup_steps': '1',
  },
  blocks=tuple(ExperimentBlock(task, {'task.make': task}) for task in TASKS),
  metric='val_accuracy',
  published=(
    _target('reverse: Q=K=V', 0.514, below(-0.05, 'reverse: base')),
    _target('swap: Q=K=V', 0.446, below(-0.05, 'swap: base')),
    _target('sub: base', 1.0, above(0.995)),
    _target('copy: base', 1.0, above(0.995)),
    *(
      _target(f'{task}: K=V', value, Within(-0.02, 0.02, f'{task}: base'))
      for task, value in zip(
        TASKS, (0.701, 0.958, 1.0, 0.590, 1.0), strict=True
      )
    ),
  ),
)
