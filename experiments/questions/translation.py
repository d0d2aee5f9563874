"""What does a decoder attend to, and does attention need positions?

Founding question 2: an encoder-decoder learns from pairs of a source and a
target; it predicts each target token from the true ones before it (teacher
forcing).
"""

from experiments.experiment import BASE, Experiment, Row
from experiments.questions.multi30k import SMOKE, TINY
from train.config.config import Config
from train.flags.schema import override

EXPERIMENT = Experiment(
  name='translation',
  title='What does a decoder attend to?',
  claim=(
    'Without its source a decoder is only a language model; it also needs its '
    'own previous tokens, and the order of both.'
  ),
  citation='Vaswani et al. 2017, Attention Is All You Need, section 3.2.3',
  kind='own',
  cost='an hour on two cores',
  base=override(
    Config(),
    TINY
    | {
      'num_layers': '2',
      'batch_size': '32',
      'steps': '500',
      'learning_rate': '3e-3',
      'warmup_steps': '100',
      'dropout_embedding': '0.1',
      'dropout_residual': '0.1',
      'eval_every': '250',
    },
  ),
  rows=(
    Row(BASE, {}),
    Row('no positions', {'position': 'none'}),
    Row('no cross-attention', {'model.cross_attention': 'false'}),
    Row('no self-attention', {'model.self_attention': 'false'}),
  ),
  seeds=3,
  smoke=SMOKE,
)
