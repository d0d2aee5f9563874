"""What decays; and trials that would learn nothing are refused or warned of."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Literal

import pytest

from experiments.experiment import BASE, Row
from experiments.results.finish import _warnings_by_row
from experiments.rows.rows import RowRequests, configure, expand_rows
from experiments.table import table
from model.architecture.architecture import Architecture
from model.attention.outputs.differential import Differential
from model.attention.qk_norm import L2QkNorm
from model.attention.scale import Constant
from model.attention.scores.place_scores import SynthesizerDense
from model.core.field import FieldError
from spec.architectures import covering, dims_of
from train.config.config import Config
from train.flags.schema import override
from train.optim.optimizer import Optimization
from train.optim.sgd import Sgd

# What --decay=matrices leaves alone, whatever it starts from.  A part of
# cross-attention and of the encoder is the same part.
KEPT = {
  'norm': ('scale', 'bias'),
  'attention': (
    'query_bias', 'key_bias', 'value_bias', 'out_bias', 'shared_bias',
    'query_up_bias', 'key_up_bias', 'value_up_bias', 'shared_up_bias',
  ),
  'feedforward': ('up_bias', 'down_bias'),
  'qk_norm': ('query', 'key', 'gain'),
  'score': ('up_bias', 'down_bias'),
  'scale': ('head',),
  'normalizer': ('sink',),
  'position': ('bias',),
  'classes': ('bias',),
  'output_gate': ('bias',),
  'output_forget': ('bias',),
  'output_value_residual': ('first', 'own'),
  'output_differential': ('query_1', 'key_1', 'query_2', 'key_2', 'scale'),
}  # fmt: skip
DECAYED = {
  'embedding': ('token',),
  'unembedding': ('kernel',),
  'classes': ('kernel',),
  'position': ('table',),
  'feedforward': ('up', 'down', 'router'),
  'score': ('vector', 'up', 'down', 'table'),
  'output_gate': ('kernel',),
  'output_forget': ('kernel',),
  'output_talking_heads': ('logits', 'weights'),
}


def part_and_name(path: str) -> tuple[str, str]:
  """Returns 'qk_norm', 'gain' of 'blocks/cross_qk_norm/gain'."""
  *_, part, name = path.split('/')
  part = part.removeprefix('cross_').removesuffix('_encoder')
  return ('norm' if part.startswith('norm_') else part), name


def decayed(
  arch: Architecture, decay: Literal['matrices', 'all'] = 'matrices'
) -> dict[str, bool]:
  """Returns which paths a step without a gradient makes smaller."""
  rules = Optimization(decay=decay, warmup_steps=0)
  found = arch.parameter_table(dims_of(arch))
  return {path: path in rules.decayed(found) for path in found}


def test_every_parameter_decays_or_not_by_what_it_is() -> None:
  seen: set[tuple[str, str]] = set()
  dense = Architecture(score=SynthesizerDense(), use_bias=True)
  for arch in [dense, *covering(causal=False), *covering(causal=True)]:
    for path, decays in decayed(arch).items():
      part, name = part_and_name(path)
      seen.add((part, name))
      if name in KEPT.get(part, ()):
        assert not decays, path
      elif part == 'attention' or name in DECAYED.get(part, ()):
        assert decays, path
      else:  # of a variant that is not listed: all but its biases decay
        assert decays != name.endswith('bias'), f'{path}: add it to a list'
    assert all(decayed(arch, 'all').values())
  missing = {
    (part, name)
    for part, names in itertools.chain(KEPT.items(), DECAYED.items())
    for name in names
    if 'shared' not in name
  } - seen
  assert not missing


def test_lambda_starts_as_embeddings_and_does_not_decay() -> None:
  arch = Architecture(output=(Differential(),))
  found = decayed(arch)
  of = 'blocks/output_differential'
  assert not any(found[f'{of}/{name}'] for name in ('query_1', 'key_2'))
  assert found['embedding/token']


@pytest.mark.parametrize(
  ('flags', 'rule'),
  [
    ({'learning_rate': '0'}, r'--learning_rate=0.*--freeze=\.'),
    ({'clip': '0'}, r'--clip=0.*--clip=none is off'),
    ({'label_smoothing': '1'}, '--label_smoothing=1.*smaller'),
    ({'init.std': '0'}, r'--init\.std=0.*larger'),
    ({'init': 'xavier', 'init.gain': '0'}, r'--init\.gain=0.*larger'),
  ],
)
def test_what_trains_nothing_is_refused(
  flags: Mapping[str, str], rule: str
) -> None:
  with pytest.raises(FieldError, match=rule):
    override(Config(), flags)
  # In a row of a sweep it names the row.
  name, value = list(flags.items())[-1]
  more = {k: v for k, v in flags.items() if k != name}
  base = override(Config(), more)
  requests = RowRequests(sweep=(f'{name}=0.5 {value}',))
  with pytest.raises(FieldError, match=f"in row '{re.escape(name)}={value}'"):
    expand_rows(base, (), requests)
  with pytest.raises(FieldError, match=rule):
    configure(base, Row('x', {name: value}))


RULES = Optimization(warmup_steps=5)


def changed(optimization: Optimization) -> Config:
  return dataclasses.replace(Config(), steps=6, optimization=optimization)


@pytest.mark.parametrize(
  ('config', 'parts'),
  [
    (changed(RULES), None),
    (
      changed(dataclasses.replace(RULES, warmup_steps=6)),
      ('--warmup_steps=6', '--steps=6', '0.86'),
    ),
    (
      changed(dataclasses.replace(RULES, warmup_steps=99)),
      ('--warmup_steps=99', '0.06'),
    ),
    (
      changed(dataclasses.replace(RULES, learning_rate=2.0, weight_decay=0.5)),
      ('--weight_decay=0.5', '--learning_rate=2'),
    ),
    (
      changed(dataclasses.replace(RULES, learning_rate=2.0, weight_decay=0.4)),
      None,
    ),
    (
      changed(dataclasses.replace(RULES, optimizer=Sgd(1.0))),
      ('--optimizer.momentum=1',),
    ),
    (
      changed(dataclasses.replace(RULES, freeze='.')),
      ('--freeze=.', 'every parameter'),
    ),
    (changed(dataclasses.replace(RULES, freeze='bias|^b|^e')), None),
  ],
)
def test_what_is_rather_not_meant_is_warned_of(
  config: Config, parts: tuple[str, ...] | None
) -> None:
  if parts is None:
    assert config.warnings() == []
    return
  (line,) = config.warnings()
  for part in parts:
    assert part in line


def test_logits_that_say_nothing_are_warned_of() -> None:
  for change, flag in (
    ({'scale': Constant(0.0)}, '--scale.value=0'),
    ({'qk_norm': L2QkNorm(0.0)}, '--qk_norm.start=0'),
  ):
    arch = dataclasses.replace(Architecture(), **change)
    (line,) = dataclasses.replace(Config(), architecture=arch).warnings()
    assert line.startswith(flag)


def test_warnings_stand_in_the_table_once() -> None:
  warned = _warnings_by_row({'--a=1: x': (), '--b=2: y': ('one',)}, BASE)
  records = [
    {
      'row': row,
      'seed': seed,
      'status': 'ok',
      'metrics': {'val_loss': 1.0 + seed},
      'clock': {'seconds': 1.0},
      'warnings': warned.get(row, []),
    }
    for row in (BASE, 'one')
    for seed in (0, 1)
  ]
  made = table.make_table(records, [BASE, 'one'], BASE)
  notes = {row.row: row.note for row in made.rows}
  assert notes == {BASE: 'every row: --a=1: x', 'one': '--b=2: y'}


def test_nothing_at_zero_stays_possible() -> None:
  """0 is off where it says so: no decay, no smoothing, no warm-up."""
  off = {'weight_decay': '0', 'label_smoothing': '0', 'warmup_steps': '0'}
  assert override(Config(), off).warnings() == []
