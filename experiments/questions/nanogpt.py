"""nanoGPT's shakespeare_char at its CPU configuration: "loss of only 1.88"."""

from experiments.experiment import BASE, Experiment, Row
from train.config import Config
from train.schema import override

EXPERIMENT = Experiment(
  name='nanogpt',
  title="nanoGPT's character model, CPU configuration",
  claim=(
    '4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps '
    'reach a validation loss of 1.88 (accepted: 1.80 to 1.92)'
  ),
  citation='Karpathy 2022, github.com/karpathy/nanoGPT, README',
  kind='A',
  cost='about 3 minutes a seed on two cores',
  base=override(
    Config(),
    {
      'task.corpus': 'shakespeare',
      'num_layers': '4',
      'd_model': '128',
      'batch_size': '12',
      'steps': '2000',
      'eval_every': '250',
    },
  ),
  rows=(Row(BASE, {}),),
  seeds=3,
  smoke={
    'steps': '4',
    'batch_size': '2',
    'num_layers': '2',
    'd_model': '16',
    'num_heads': '2',
    'eval_examples': '4',
    'eval_every': '2',
    'warmup_steps': '1',
  },
)
