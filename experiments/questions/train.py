"""One configuration, as the flags set it: trained, evaluated and reported."""

from experiments.experiment import BASE, Experiment, Row
from train.config.config import Config

EXPERIMENT = Experiment(
  name='train',
  title='One configuration, trained',
  claim='No claim: the base has the defaults of all flags.',
  citation='Radford et al. 2019 (GPT-2), for the defaults',
  kind='own',
  cost='a minute on two cores',
  base=Config(),
  rows=(Row(BASE, {}),),
  seeds=1,
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
