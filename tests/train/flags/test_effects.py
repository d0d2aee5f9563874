"""Every flag of a trial has an effect."""

import dataclasses
import functools
import json
import pathlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.command import Command
from experiments.experiment import BASE, Experiment, Row
from experiments.planning.plan import make_plan
from experiments.rows.rows import RowRequests
from helpers import alone
from helpers.courses import (
  EVERYTHING,
  TINY,
  Given,
  config,
  course,
  cpus,
  data,
  data_of,
  moves_of,
  random_params,
  windows_seen,
)
from model.core.field import field_types, split, variants
from train import group
from train.config.config import Config
from train.core.trees import unflatten
from train.data.documents import document
from train.data.splits import corpus
from train.data.splits.splits import EachSplit, TailSplit
from train.data.tables.base import Jsonl, ParallelText
from train.data.tables.delimited import CsvTable, Delimited, Tsv
from train.files.durable import digest, read_intact_lines
from train.flags.schema import FlagSpec, flag_specs
from train.probe import Probe
from train.programs import program as programs
from train.programs import signature as signatures
from train.programs.batches import batch_of
from train.programs.state import init_state
from train.programs.step import train_step
from train.programs.validation import evaluation_step
from train.tasks.base import Task
from train.tasks.sentences import TableTask
from train.tasks.texts.text import Text
from train.trial import Options, Result, Trial


def test_numbers_share_a_program() -> None:
  base, _ = signatures.signature(config(EVERYTHING), data(), cpus(1))
  others = {
    path: effect.other
    for path, effect in EFFECTS.items()
    if path in split(config(EVERYTHING))[1]
  }
  assert {'seed', 'learning_rate', 'dropout_attention', 'clip'} <= set(others)
  for path, other in others.items():
    sig, values = signatures.signature(
      config(EVERYTHING | {path: other}), data(), cpus(1)
    )
    assert sig == base, path
    assert programs.get_program(sig) is programs.get_program(base)
    assert values[path].dtype in (np.int32, np.float32)


class Place(NamedTuple):
  """Where an effect is looked for."""

  finished: pathlib.Path  # a workdir with the trial 'tiny'
  empty: pathlib.Path
  monkeypatch: pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Effect:
  """Another value of a flag, where it applies, and what then changes.

  Attributes:
    other: a value that differs from that in the base; {finished} is a workdir.
    base: flags under which it applies; the choice that owns it goes first.
    seen: what changes; none is the program or, where two values share one,
      what it computes.
  """

  other: str
  base: Mapping[str, str] = dataclasses.field(default_factory=dict)
  seen: Callable[[Config, Place], object] | None = None


def _data_digest(made: Config, place: Place) -> object:
  place.monkeypatch.setattr(corpus, 'shakespeare', lambda: TO_BE)
  return made.task.load().digest


def _held(made: Config, place: Place) -> object:
  """Returns what is judged: of a text, or of rows that are made up."""
  task = made.task
  if not isinstance(task, TableTask):
    return task.load().arrays['validation'].tobytes()
  if isinstance(task.split, EachSplit):  # rows have no end
    task = dataclasses.replace(task, split=TailSplit())
  path = place.empty / 'rows.tsv'
  path.write_text(''.join(f'{"go " * n}on\t{"xy"[n % 2]}\n' for n in range(40)))
  data = dataclasses.replace(task, data=Tsv(train=str(path))).load()
  return repr(data.held)


def _table_digest(made: Config, place: Place) -> object:
  """Returns the digest of a table whose texts are what it was asked for."""
  table, columns = made.task.data, ('text',)
  if isinstance(made.task, TableTask):
    columns = made.task.columns
  for name in {'train', 'name'} & set(field_types(type(table))):
    if vars(table)[name] is None:
      table = dataclasses.replace(table, **{name: 'given'})

  def four(*names: object) -> list[dict[str, str]]:
    first = ' '.join(map(str, [table.tag, *names]))
    return [
      dict.fromkeys([*columns, 'other'], x) | {columns[0]: f'{first} {n}'}
      for n, x in enumerate('xyxy')
    ]

  def read_file(path: pathlib.Path) -> str:
    if isinstance(table, Jsonl):
      return '\n'.join(map(json.dumps, four(path)))
    if isinstance(table, ParallelText):
      return ''.join(f'{path} {n}\n' for n in range(4))
    assert isinstance(table, Delimited)
    names = [*columns, *(['other'] if table.keys else [])]
    rows = [names, *[[f'"{row[c]}"' for c in names] for row in four(path)]]
    return '\n'.join(
      ('\t,'[isinstance(table, CsvTable)]).join(row) for row in rows
    )

  class Found(list[Any]):
    features = types.MappingProxyType({})

  def builder(name: str, data_dir: str | None) -> object:
    return types.SimpleNamespace(
      info=Found,
      download_and_prepare=lambda file_format: file_format,
      as_data_source=lambda split: Found(four(name, data_dir, split)),
    )

  def load_dataset(name: str, config: str | None, split: str) -> Found:
    return Found(four(name, config, split))

  for module in ('base', 'delimited'):
    name = f'train.data.tables.{module}.read_file'
    place.monkeypatch.setattr(name, read_file)
  place.monkeypatch.setattr(
    'train.data.tables.multi30k.fetch_text',
    lambda remote: f'{remote.name}\n' * 3,
  )
  hugging = types.SimpleNamespace(load_dataset=load_dataset, ClassLabel=int)
  features = types.SimpleNamespace(ClassLabel=int)
  tfds = types.SimpleNamespace(builder=builder, features=features)
  place.monkeypatch.setitem(sys.modules, 'datasets', hugging)
  place.monkeypatch.setitem(sys.modules, 'tensorflow_datasets', tfds)
  return dataclasses.replace(made.task, data=table).load().digest


def _vocabulary(made: Config, place: Place) -> object:
  del place
  task = made.task
  if isinstance(task, TableTask):
    task = dataclasses.replace(task, data=Given(train='given'))
  return task.load().vocabulary


def _judged(made: Config, place: Place) -> object:
  """Returns what the search is given, and what was written.

  Of texts in which a word is in two pieces.
  """
  asked = []

  def best(*arguments: Any) -> np.ndarray:
    asked.append(arguments[2])  # the rules
    return np.full((len(arguments[5].tokens_BS), 3), arguments[2].end)

  place.monkeypatch.setattr('train.tasks.translate._best', best)
  found = data_of(made.task)
  held = tuple([f'{text} x@@ y' for text in texts] for texts in found.held)
  found = dataclasses.replace(found, held=held)
  dims = made.sizes(found.vocabulary)
  judged = made.task.final_metrics(made.architecture, dims, {}, found)
  return asked, judged.lines


def _evaluation_steps(made: Config, place: Place) -> object:
  """Returns when the loop evaluates; the program has no part in it."""
  sig, _ = signatures.signature(config(TINY), data(), cpus(1))
  with place.monkeypatch.context() as patch:
    patch.setattr(group, 'get_program', lambda _: programs.get_program(sig))
    folder = place.empty / str(made.eval_every)
    alone.run(Trial('tiny', made, folder, data()), Options(), cpus(1))
  lines = read_intact_lines(folder / 'metrics.jsonl')
  return [line['step'] for line in lines if 'val_loss' in line]


def _held_out(made: Config, place: Place) -> object:
  del place
  return made.num_evaluated({})


def _evaluation_examples(made: Config, place: Place) -> object:
  return windows_seen(place.monkeypatch, made, cpus(1))


def _initial(made: Config, place: Place) -> object:
  """Returns the program that draws the initial parameters."""
  del place
  return jax.jit(lambda: init_state(made, made.dims(24))).lower().as_text()


def _start(made: Config, place: Place) -> object:
  """Returns the parameters that the plan of a command begins with."""
  text = Text(path=str(place.finished / 'text.txt'))
  made = dataclasses.replace(made, task=text)
  experiment = Experiment(
    'x', 'x', 'x', 'x', 'own', 'x', made, (Row(BASE, {}),), 1, {}
  )
  command = Command(workdir=str(place.empty))
  plan = make_plan(experiment, made, command, Options(), RowRequests())
  (planned,) = plan.trials
  start = planned.trial.initial
  return digest(init_state(made, made.dims(24), start).params)


def _moved(made: Config, place: Place) -> object:
  del place
  params, grads = (
    random_params(made, 0),
    [random_params(made, n) for n in (1, 2)],
  )
  return digest(unflatten(moves_of(made, params, grads)[-1]))


def _measured(made: Config, place: Place) -> Mapping[str, Any]:
  """Returns what --measure finds where the trial starts."""
  del place
  found = data_of(made.task)
  params = init_state(made, made.sizes(found.vocabulary)).params
  return Probe(made, found, is_host_fed=False).figures(params)


def _evaluated(made: Config, place: Place) -> object:
  """Returns the parameters that are evaluated; those trained are the same."""
  del place
  return digest(course(made, stops=(7,)).state.eval_params)


TO_BE = corpus.Corpus('x', [document('x', 'to be')])
# Vectors as wide as the model.
VECTORS = {'task': 'regression', 'task.dim': '15', 'd_model': '16'}
EFFECTS = {
  'task': Effect('mlm'),
  'task.path': Effect('{finished}/text.txt', seen=_data_digest),
  'task.corpus': Effect('shakespeare', seen=_data_digest),
  'task.split': Effect('each', seen=_held),
  'task.split.seed': Effect('1', seen=_held),
  'task.split.path': Effect(
    '{finished}/text.txt', {'task.split.path': __file__}, _held
  ),
  'task.data': Effect('tsv', {'task.data': 'jsonl'}, _table_digest),
  'task.data.suffixes': Effect('b,a', seen=_table_digest),
  'task.data.source': Effect('de', seen=_table_digest),
  'task.data.held': Effect('test', seen=_table_digest),
  'task.data.train': Effect('other', seen=_table_digest),
  'task.data.validation': Effect('other', seen=_table_digest),
  'task.data.header': Effect(
    'true', {'task.data.header': 'false'}, _table_digest
  ),
  'task.data.quotes': Effect('false', seen=_table_digest),
  'task.data.keys': Effect('other', seen=_table_digest),
  'task.data.name': Effect('other', seen=_table_digest),
  'task.data.config': Effect('other', seen=_table_digest),
  'task.data.data_dir': Effect('other', seen=_table_digest),
  'task.tokenizer': Effect('byte', {'task.tokenizer': 'char'}, _vocabulary),
  'task.tokenizer.vocab_size': Effect('1000', seen=_vocabulary),
  'task.tokenizer.min_count': Effect('9', seen=_vocabulary),
  'task.tokenizer.lowercase': Effect(
    'true', {'task.tokenizer.lowercase': 'false'}, _vocabulary
  ),
  'task.beam': Effect('2', seen=_judged),
  'task.buckets': Effect('3', {'task.buckets': '2'}),
  'task.ends': Effect('true'),
  'task.reserve_mask': Effect('true'),
  'task.judged': Effect('2', seen=_judged),
  'task.length_penalty': Effect('0.2', {'task.beam': '2'}, seen=_judged),
  'task.pretokenized': Effect('true', seen=_judged),
  'task.symbols': Effect('7'),
  'task.dim': Effect('7'),
  'task.range': Effect('0.7'),
  'task.scale': Effect('2.0'),
  'task.held': Effect('70', seen=_held_out),
  'task.rate': Effect('0.5'),
  'task.masked': Effect('0.5'),
  'task.random': Effect('0.2'),
  'seq_len': Effect('8'),
  'batch_size': Effect('4'),
  'microbatches': Effect('2'),
  'steps': Effect('20'),
  'objective': Effect('cross_entropy,z_loss'),
  'objective.weight': Effect('0.1', {'objective': 'cross_entropy,z_loss'}),
  'label_smoothing': Effect('0.2'),
  'seed': Effect('3'),
  'shuffle_targets': Effect('true'),
  'eval_every': Effect('2', {'steps': '4'}, _evaluation_steps),
  'eval_examples': Effect('3', seen=_evaluation_examples),
  'init_from': Effect('{finished}:tiny', seen=_start),
  'start': Effect('equal_heads', seen=_initial),
  'start.rate': Effect(
    '0.3',
    {'start': 'gradient_step', 'num_heads': '1', 'head_dim': 'none'},
    _initial,
  ),
  'measure': Effect('rank_residual', seen=_measured),
  'measure.of': Effect('attention', {'measure': 'gradient_norm'}, _measured),
  'measure_examples': Effect('3', {'measure': 'rank_residual'}, _measured),
  'model': Effect('encoder', {'task': 'mlm', 'model': 'decoder'}),
  'model.pooling': Effect('cls'),
  'model.encoder_layers': Effect('3'),
  'model.self_attention': Effect('false'),
  'model.cross_attention': Effect('false'),
  'read_in': Effect('identity', VECTORS),
  'read_out': Effect('last', VECTORS),
  'num_layers': Effect('3'),
  'd_model': Effect('32'),
  'num_heads': Effect('4'),
  'head_dim': Effect('4'),
  'num_kv_heads': Effect('1'),
  'projections': Effect('raw'),
  'projections.kind': Effect('mlp'),
  'projections.latent': Effect('3'),
  'projections.rope_dim': Effect('0'),
  'projections.query_latent': Effect('3'),
  'qk_norm': Effect('rms'),
  'qk_norm.eps': Effect('0.1'),
  'qk_norm.start': Effect('3'),
  'score': Effect('additive'),
  'score.places': Effect('both'),
  'score.std': Effect('2'),
  'scale': Effect('none'),
  'scale.value': Effect('0.7'),
  'scale.learned': Effect('true'),
  'logit_cap': Effect('0.5', {'logit_cap': '0.1'}),
  'normalizer': Effect('none'),
  'normalizer.k': Effect('3', {'normalizer.k': '2'}),
  'mask': Effect('causal,exclude_self'),
  'mask.window': Effect('3', {'mask': 'causal,window', 'mask.window': '5'}),
  'mask.prefix': Effect('3'),
  'position': Effect('rope'),
  'position.theta': Effect('100'),
  'position.buckets': Effect('8'),
  'position.max_distance': Effect('40'),
  'position.bidirectional': Effect('true'),
  'output': Effect('gate,value_residual'),
  'backend': Effect('chunked'),
  'backend.chunk': Effect('3'),
  'norm': Effect('rmsnorm'),
  'norm.eps': Effect('0.1'),
  'residual': Effect('post'),
  'feedforward': Effect('none'),
  'feedforward.experts': Effect('4', {'feedforward': 'moe'}),
  'feedforward.top_k': Effect('3', {'feedforward': 'moe'}),
  'feedforward.renormalize': Effect('false', {'feedforward': 'moe'}),
  'feedforward.capacity': Effect('0.5', {'feedforward': 'moe'}),
  'feedforward.balance': Effect('none', {'feedforward': 'moe'}),
  'feedforward.balance.weight': Effect('0.5', {'feedforward': 'moe'}),
  'feedforward.balance.rate': Effect(
    '0.1', {'feedforward': 'moe', 'feedforward.balance': 'bias'}
  ),
  'feedforward.activation': Effect('relu'),
  'feedforward.width': Effect('24'),
  'feedforward.dropout': Effect('0.7'),
  'pattern': Effect('norm=none;feedforward=none'),
  'scale_embeddings': Effect('true'),
  'tie_embeddings': Effect('false'),
  'use_bias': Effect('true'),
  'init': Effect('xavier', seen=_initial),
  'init.std': Effect('0.1', seen=_initial),
  'init.gain': Effect('0.5', seen=_initial),
  'dropout_embedding': Effect('0.6'),
  'dropout_attention': Effect('0.6'),
  'dropout_residual': Effect('0.6'),
  'dtype': Effect('bfloat16'),
  'remat': Effect('true'),
  'scan_layers': Effect('true'),
  'learning_rate': Effect('0.02'),
  'warmup_steps': Effect('4'),
  'schedule': Effect('constant'),
  'schedule.final': Effect('0.7'),
  'optimizer': Effect('sgd'),
  'optimizer.b1': Effect('0.5'),
  'optimizer.b2': Effect('0.5'),
  'optimizer.eps': Effect('0.1'),
  'optimizer.momentum': Effect('0.5', seen=_moved),
  'optimizer.nesterov': Effect('false'),
  'optimizer.iterations': Effect('4'),
  'optimizer.factor': Effect('spectral'),
  'optimizer.adam_rate': Effect('0.1'),
  'weight_decay': Effect('0.5'),
  'decay': Effect('all'),
  'clip': Effect('0.05'),
  'freeze': Effect('^embedding/'),
  'groups': Effect('^embedding/:factor=0.5'),
  'after_update': Effect('sphere'),
  'after_update.k': Effect('3'),
  'after_update.share': Effect('0.3'),
  'average': Effect('ema'),
  'average.decay': Effect('0.5', seen=_evaluated),
  'average.count': Effect('5', {'steps': '7', 'eval_every': '1'}, _evaluated),
}


def _another(leaf: FlagSpec) -> str | None:
  """Returns a value that a flag of a choice does not have by default."""
  _, default = next(iter(leaf.owners.values()))
  match default:
    case bool():
      return str(not default).lower()
    case int():
      return str(default + 1)
    case float():
      return str(0.7 * default or 0.3)
    case str():
      return next(x for x in get_args(leaf.hint) if x != default)
  return None


# Of a choice, so that another one is an entry nowhere but in its own file.
EFFECTS |= {
  flag: Effect(other)
  for flag, leaf in flag_specs(Config).items()
  if flag not in EFFECTS and '' not in leaf.owners
  for other in [_another(leaf)]
  if other is not None
}


def test_every_flag_has_an_entry() -> None:
  assert set(EFFECTS) == set(flag_specs(Config)), 'EFFECTS must list every flag'


@functools.cache
def _lowered(made: Config) -> tuple[str, str]:
  """Returns the table of parameters, and the step and evaluation as text."""
  found = data_of(made.task)
  dims = made.sizes(found.vocabulary)
  table = made.architecture.parameter_table(dims)
  shapes = {
    path: jax.ShapeDtypeStruct(
      (depth, *what.shape) if depth else what.shape, jnp.float32
    )
    for path, what in table.items()
    for depth in [made.architecture.depth(path)]
  }

  def whole(params: Any, arrays: Mapping[str, jax.Array]) -> Any:
    state = init_state(made, dims, params)
    bucket = made.task.num_buckets - 1
    batch = batch_of(made, arrays, state.step, bucket)
    new, metrics = train_step(made, dims, state, batch, None)
    held = made.task.evaluation_batch(arrays, jnp.arange(2), made.seq_len)
    return new, metrics, evaluation_step(made, dims, new.params, held, arrays)

  text = jax.jit(whole).lower(unflatten(shapes), dict(found.arrays)).as_text()
  return str(table), text


# What else a choice needs.
NEEDED: Mapping[str, Mapping[str, str]] = {
  f'task={tag}': {'model': task.families[0].tag}
  for tag, task in variants(Task).items()
} | {
  'task.data=multi30k': {'task': 'translation', 'model': 'encoder_decoder'},
  'task.data=multi30k_bpe': {'task': 'translation', 'model': 'encoder_decoder'},
  'task.data=multi30k_languages': {
    'task': 'classification',
    'model': 'classifier',
  },
  'task.data=lines': {'task': 'translation', 'model': 'encoder_decoder'},
  'model=encoder': {'task': 'mlm'},
  'model=encoder_decoder': {'task': 'translation'},
  'model=classifier': {'task': 'classification'},
}


OWNED = [
  (flag, owner)
  for flag, leaf in flag_specs(Config).items()
  for owner in leaf.owners
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flag', 'owner'), OWNED, ids=[f'{f} {o}'.strip() for f, o in OWNED]
)
def test_flag_has_an_effect(
  flag: str,
  owner: str,
  finished: tuple[pathlib.Path, Result],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  effect, leaf = EFFECTS[flag], flag_specs(Config)[flag]
  if list(variants(leaf.hint)) == [effect.other]:
    return  # a choice of one
  meta, _ = leaf.owners[owner]
  choice, _, tag = owner.partition('=')
  base = EVERYTHING if meta.traced else TINY
  base = base | dict(NEEDED.get(owner, {}))
  base = base | ({choice: tag} if owner else {}) | dict(effect.base)
  if base.get('feedforward', 'mlp') != 'mlp':
    base.pop('feedforward.dropout', None)
  other = effect.other.format(finished=finished[0])
  one, two = config(base), config(base | {flag: other})
  assert one != two, 'the entry gives the value of the base'
  if effect.seen is not None:
    place = Place(finished[0], tmp_path, monkeypatch)
    assert effect.seen(one, place) != effect.seen(two, place)
  elif split(one)[0] != split(two)[0]:
    assert _lowered(one) != _lowered(two)
  else:
    a, b = course(one), course(two)
    assert digest(a.state.params) != digest(b.state.params)


def test_what_has_no_effect_is_seen_to_have_none() -> None:
  # Else the test above could pass on the address of a function.
  text = _lowered(config(TINY))
  assert _lowered(config(TINY | {'eval_every': '7'})) == text
