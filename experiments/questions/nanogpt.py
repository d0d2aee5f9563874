"""nanoGPT's shakespeare_char at its CPU configuration: "loss of only 1.88"."""

from experiments.claims.frequency import frequency_loss
from experiments.claims.published import Control, PublishedValue
from experiments.claims.rules import Near, Within
from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.flags.schema import override

EXPERIMENT = Experiment(
  name='nanogpt',
  title="nanoGPT's character model, CPU configuration",
  claim=(
    '4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps '
    'reach a validation loss of 1.88 (accepted: 1.80 to 1.92)'
  ),
  citation='Karpathy 2022, github.com/karpathy/nanoGPT, README',
  kind='A',
  cost='about 3 minutes a seed, and of each control, on two cores',
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
  published=(
    PublishedValue(
      row=BASE,
      metric='val_loss',
      value=1.88,
      source='nanoGPT, README: "loss of only 1.88"',
      # A much lower loss would mean that targets leak into the input.
      rule=Within(1.80, 1.92),
      seeds=3,
    ),
  ),
  controls=(
    Control(
      row='targets shuffled',
      changes={'shuffle_targets': 'true'},
      metric='val_loss',
      rule=Near(0.1),
      about='cross-entropy of the frequencies of training characters',
      expected=frequency_loss,
    ),
    Control(
      row='sees one character',
      changes={'mask': 'causal,window', 'mask.window': '1'},
      metric='val_loss',
      # A bigram model of this text reaches 2.5 nats.
      rule=Within(0.4, 0.8, minus=BASE),
      about='what comes after a character says less than all before it',
    ),
  ),
)
