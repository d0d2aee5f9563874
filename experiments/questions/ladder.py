"""From dot products of raw embeddings to queries, keys and values.

Founding question 4: what does each projection contribute?  One more row for
each other founding question: scaling, heads, positions, embeddings.
"""

from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config
from train.flags.schema import override

EXPERIMENT = Experiment(
  name='ladder',
  title='What does each part of attention buy?',
  claim=(
    'Sharing keys and values costs little; attention without any W is worse, '
    'but it still learns.'
  ),
  citation=(
    'Kayyam et al. 2026, Do Transformers Need Three Projections?, '
    'arXiv:2606.04032; the row raw is ours'
  ),
  kind='own',
  cost='minutes on two cores',
  base=override(
    Config(),
    {
      'batch_size': '8',
      'learning_rate': '3e-3',
      'eval_every': '100',
      'eval_examples': '256',
      # If tied, freezing the embedding would freeze the unembedding too.
      'tie_embeddings': 'false',
    },
  ),
  rows=(
    Row(BASE, {}),
    Row('qk', {'projections': 'shared_kv'}),
    Row('raw', {'projections': 'raw'}),
    Row('no scaling', {'scale': 'none'}),
    Row('not self', {'mask': 'causal,exclude_self'}),
    Row('one head', {'num_heads': '1'}),
    Row('no positions', {'position': 'none'}),
    Row('frozen embeddings', {'freeze': '^embedding/'}),
  ),
  seeds=5,
  smoke={
    'steps': '4',
    'batch_size': '2',
    'seq_len': '16',
    'd_model': '16',
    'num_heads': '2',
    'eval_examples': '4',
    'eval_every': '2',
    'warmup_steps': '1',
  },
)
