r"""Multi30k en-de by a small Transformer: 41.02 BLEU on test2016, published.

The base has a schedule for two CPU cores.  The published one needs an
accelerator:

python launch.py --experiment=multi30k --batch_size=146 --steps=8000 \
  --learning_rate=5e-3 --warmup_steps=2000 --schedule=inverse_sqrt \
  --dropout_embedding=0.3 --dropout_residual=0.3 --eval_every=100 \
  --average=tail --average.count=10 --task.beam=5 --task.data.held=test \
  --seeds=3
"""

from experiments.claims.published import PublishedValue
from experiments.claims.rules import above
from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.flags.schema import override

TINY = {
  'task': 'translation',
  'task.data': 'multi30k_bpe',
  'model': 'encoder_decoder',
  'num_layers': '4',
  'd_model': '128',
  'feedforward.width': '256',
  'feedforward.activation': 'relu',
  'residual': 'post',
  'position': 'sinusoidal',
  'scale_embeddings': 'true',
  'use_bias': 'true',
  'init': 'xavier',
  'optimizer.b2': '0.98',
  'weight_decay': '0',
  'label_smoothing': '0.1',
  'seq_len': '56',
}
PUBLISHED = {
  'batch_size': '146',
  'steps': '8000',
  'learning_rate': '5e-3',
  'warmup_steps': '2000',
  'schedule': 'inverse_sqrt',
  'dropout_embedding': '0.3',
  'dropout_residual': '0.3',
  'eval_every': '100',
  'average': 'tail',
  'average.count': '10',
  'task.beam': '5',
  'task.data.held': 'test',
}
SMOKE = {
  'steps': '4',
  'batch_size': '2',
  'seq_len': '24',
  'num_layers': '1',
  'd_model': '16',
  'num_heads': '2',
  'feedforward.width': '16',
  'eval_examples': '4',
  'eval_every': '2',
  'warmup_steps': '1',
  'task.judged': '4',
  'task.beam': '2',
  'task.buckets': '1',
}

EXPERIMENT = Experiment(
  name='multi30k',
  title='Multi30k, English to German, by a small encoder-decoder',
  claim=(
    'Transformer-Tiny, 4 + 4 layers of width 128, reaches 41.02 BLEU on '
    'test2016 (8,000 updates of 8,192 tokens, the mean of 10 checkpoints, '
    'beam 5)'
  ),
  citation='Wu et al. 2021, Good for Misconceived Reasons, arXiv:2105.14462',
  kind='B',
  cost='under an hour a seed on two cores',
  base=override(
    Config(),
    TINY
    | {
      'batch_size': '64',
      'steps': '1500',
      'learning_rate': '3e-3',
      'warmup_steps': '300',
      'dropout_embedding': '0.1',
      'dropout_residual': '0.1',
      'eval_every': '250',
      'task.beam': '5',
    },
  ),
  rows=(Row(BASE, {}),),
  seeds=1,
  smoke=SMOKE,
  published=(
    PublishedValue(
      row=BASE,
      metric='bleu',
      value=41.02,
      source='Wu et al. 2021, table of baselines, test2016',
      rule=above(40.0),
      scale=PUBLISHED,
      seeds=3,
      reduced=above(33.0),
    ),
  ),
)
