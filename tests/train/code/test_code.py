"""Of what code a trial is: what changes its digest, and what does not."""

import ast
import dataclasses
import functools
import pathlib
import re
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import jax
import pytest

from helpers.source import ROOT
from train.code import reach
from train.code.project import Project, current_project, files
from train.config import code_digest as code
from train.config.config import Config
from train.devices.parallel import SharedLayout
from train.flags.schema import override
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import init_state

Flags = dict[str, str]
SLOW = pytest.mark.slow
TRANSLATION = {'task': 'translation', 'model': 'encoder_decoder'}


@dataclasses.dataclass(frozen=True)
class Edit:
  """An edit of a function, who runs it, and who does not."""

  module: str
  name: str
  used: Flags
  unused: Flags | None = None

  def __str__(self) -> str:
    return self.name


EDITS = (
  Edit('model/layers/norm', 'RmsNorm.apply', {'norm': 'rmsnorm'}, {}),
  Edit('model/position/base', 'Rope.rotate', {'position': 'rope'}, {}),
  Edit(
    'model/position/base', 'LearnedPosition.embed', {}, {'position': 'rope'}
  ),
  Edit('model/attention/mask', 'Padding.allowed', TRANSLATION, {}),
  Edit('model/attention/mask', 'Causal.allowed', {}),
  Edit(
    'model/attention/scores/base', 'Additive.logits', {'score': 'additive'}, {}
  ),
  Edit('model/backends/chunked', 'chunked', {'seq_len': '2048'}, {}),
  Edit('model/attention/composed', 'reference_attention', {}),
  Edit('model/transformer', 'init', {}),
  Edit('model/decoding/beam', 'beam_search', TRANSLATION, {}),
  Edit('train/optim/objective', 'training_sums', {}),
  Edit('train/optim/objective', 'CrossEntropy.loss_BT', {}),
  Edit(
    'train/optim/objective',
    'ZLoss.loss_BT',
    {'objective': 'cross_entropy,z_loss'},
    {},
  ),
  Edit('train/optim/sgd', 'Sgd.scale', {'optimizer': 'sgd'}, {}),
  Edit('train/optim/muon', 'Muon._step', {'optimizer': 'muon'}, {}),
  Edit('train/optim/sphere', 'Sphere.after', {'after_update': 'sphere'}, {}),
  Edit('train/optim/group', 'Pace.rate', {}),
  Edit('train/optim/optimizer', 'Optimization.rate', {}),
  Edit('train/optim/average', 'Ema.weight', {'average': 'ema'}, {}),
  Edit('train/programs/step', 'train_step', {}),
  Edit('train/programs/validation', 'evaluate', {}),
  Edit('train/milestones', 'evaluate_lanes', {}),
  Edit('train/lane', 'Lane.result', {}),
  Edit('train/host_feed', 'read_block', {}),
  Edit(
    'train/tasks/texts/mlm',
    'Mlm.make_batch',
    {'task': 'mlm', 'model': 'encoder'},
    {},
  ),
  Edit('train/tasks/windows', 'WindowTask.load', {}, TRANSLATION),
  Edit('train/tasks/sentences', 'TableTask.load', TRANSLATION, {}),
  Edit('train/tasks/bleu', 'corpus_bleu', TRANSLATION, {}),
  Edit(
    'train/text/tokenizer',
    'ByteTokenizer.train',
    {'task.tokenizer': 'byte'},
    {},
  ),
  Edit(
    'train/text/vocabulary',
    'ByteVocabulary.encode',
    {'task.tokenizer': 'byte'},
    {},
  ),
  Edit('train/text/subwords', 'Subwords.encode', {'task.tokenizer': 'bpe'}, {}),
)
# Of what it says and keeps, nothing is a figure.
HOST = (
  Edit('train/files/log', 'MetricsLog.write', {}),
  Edit('train/files/checkpoint', 'Checkpoints.save', {}),
  Edit('train/config/config', 'Config.problems', {}),
  Edit('experiments/table/table', 'make_table', {}),
)


def edit(texts: dict[str, str], module: str, name: str) -> None:
  """Adds a statement to a function."""
  path = f'{module}.py'
  lines = texts[path].split('\n')
  nodes = ast.parse(texts[path]).body
  for part in name.split('.'):
    (found,) = [n for n in nodes if vars(n).get('name') == part]
    nodes = vars(found)['body']
  last = nodes[-1]
  lines.insert(last.lineno - 1, f'{" " * last.col_offset}edited = {name!r}')
  texts[path] = '\n'.join(lines)


@pytest.fixture(scope='module')
def here() -> Project:
  return current_project()


@pytest.fixture(scope='module')
def edited() -> Project:
  """The project with every edit of this file."""
  texts = files(ROOT)
  for one in (*EDITS, *HOST):
    edit(texts, one.module, one.name)
  return Project(texts)


def changed(flags: Flags, one: Project, other: Project) -> set[str]:
  """Returns the parts of a trial that are other in another project."""
  config = override(Config(), flags)
  a, b = code.executed_code(config, one), code.executed_code(config, other)
  assert (a.digest == b.digest) == (a.parts == b.parts)
  return {n for n in {*a.parts, *b.parts} if a.parts.get(n) != b.parts.get(n)}


@pytest.mark.parametrize('one', EDITS, ids=str)
def test_an_edit_of_what_runs_is_seen(
  here: Project, edited: Project, one: Edit
) -> None:
  part = one.name.partition('.')[0]
  assert part in changed(one.used, here, edited)


UNUSED = [one for one in (*EDITS, *HOST) if one.unused is not None]


@pytest.mark.parametrize('one', UNUSED, ids=str)
def test_an_edit_of_what_does_not_run_is_not_seen(
  here: Project, edited: Project, one: Edit
) -> None:
  assert one.unused is not None
  part = one.name.partition('.')[0]
  assert part not in changed(one.unused, here, edited)


def test_an_edit_of_one_variant_leaves_all_other_rows(here: Project) -> None:
  texts = files(ROOT)
  edit(texts, 'model/layers/norm', 'RmsNorm.apply')
  other = Project(texts)
  assert changed({'norm': 'rmsnorm'}, here, other) == {'RmsNorm'}
  for flags in ({}, {'norm': 'none'}, TRANSLATION):
    assert not changed(flags, here, other)
  # Queries are normalised by the same class.
  assert 'RmsNorm' in changed({'qk_norm': 'rms'}, here, other)


# What is no function, and runs.
LINES = (
  ('model/backends/base.py', 'LONG = 1024', 'LONG = 1025', {}, 'LONG'),
  (
    'model/attention/mask.py',
    'hides_future=True',
    'hides_future=not False',
    {},
    'Causal',
  ),
  (
    'model/attention/projections/base.py',
    "('query', 'key', 'key')",
    "('query', 'key', 'query')",
    {'projections': 'shared_kv'},
    'SharedKv',
  ),
  (
    'train/tasks/texts/text.py',
    '  @property\n  def wanted',
    '  def load(self):\n    return 1\n\n  @property\n  def wanted',
    {},
    'Text',
  ),
  (
    'train/optim/objective.py',
    '\n\n\nclass LossSums',
    "\n\njax.config.update('x', 1)\n\n\nclass LossSums",
    {},
    'imports',
  ),
  (
    'train/optim/objective.py',
    'import jax.numpy as jnp',
    'import numpy as jnp',
    {},
    'evaluation_sums',
  ),
  (  # A gradient that a function is given.
    'model/attention/normalizers/base.py',
    'fusion_barrier(*primals), tangents[0]',
    'fusion_barrier(*primals), -tangents[0]',
    {},
    '_fusion_barrier_jvp',
  ),
)


@pytest.mark.parametrize(('path', 'old', 'new', 'flags', 'part'), LINES)
def test_constants_class_variables_overriding_and_imports_are_seen(
  here: Project, path: str, old: str, new: str, flags: Flags, part: str
) -> None:
  texts = files(ROOT)
  assert old in texts[path]
  texts[path] = texts[path].replace(old, new, 1)
  assert part in changed(flags, here, Project(texts))


# Says nothing to the machine. ---------------------------------------


def _rewritten(text: str) -> str:
  """Returns a file as it is parsed, without comments, and set otherwise."""
  tree = ast.parse(text)
  for node in ast.walk(tree):
    match node:
      case ast.FunctionDef() | ast.ClassDef():
        if ast.get_docstring(node) is not None:
          node.body[0] = ast.Expr(ast.Constant('Another word on it.'))
      case ast.Call(func=ast.Name(id='field'), args=[default, _]):
        node.args = [default, ast.Constant('Another help.')]
      case ast.arg():
        node.annotation = None
  return '# A comment.\n\n' + ast.unparse(tree)


def test_comments_docstrings_layout_types_and_help_are_not_seen(
  here: Project,
) -> None:
  texts = files(ROOT)
  other = Project({path: _rewritten(text) for path, text in texts.items()})
  assert other.digest != here.digest
  for flags in ({}, TRANSLATION):
    assert not changed(flags, here, other)


def _moved(texts: dict[str, str], old: str, new: str) -> dict[str, str]:
  """Returns the files with one of them moved, of which all others know."""
  package, _, name = old.rpartition('/')
  other = new.rpartition('/')[2]
  inside = package.replace('/', '.')
  dotted = f'{inside}.{name}'
  changes = (
    (rf'\b{re.escape(dotted)}\b', new.replace('/', '.')),
    (rf'\bfrom {inside} import {name}\b', f'from {inside} import {other}'),
  )
  out = {}
  for path, text in texts.items():
    for pattern, word in changes:
      text, count = re.subn(pattern, word, text)
      if count and 'import' in word:  # `corpus.read` becomes `books.read`
        text = re.sub(rf'\b{name}\.', f'{other}.', text)
    out[path.replace(f'{old}.py', f'{new}.py')] = text
  return out


def test_files_and_classes_that_move_are_not_seen(here: Project) -> None:
  texts = _moved(files(ROOT), 'model/layers/norm', 'model/layers/norms')
  texts = _moved(texts, 'train/programs/step', 'train/programs/one')
  texts = _moved(texts, 'train/data/splits/corpus', 'train/data/splits/books')
  assert 'books.read_corpus(' in texts['train/tasks/windows.py']
  text = texts['train/optim/objective.py']
  start = text.index('# Side outputs summed over examples')
  end = text.index('def training_sums')
  texts['train/optim/sums.py'] = (
    'from collections.abc import Mapping\n'
    'from typing import NamedTuple\nimport jax\n\n' + text[start:end]
  )
  texts['train/optim/objective.py'] = (
    'from train.optim.sums import EvaluationSums, LossSums, SideSums\n'
    + text[:start]
    + text[end:]
  )
  other = Project(texts)
  for flags in ({}, {'norm': 'rmsnorm'}, TRANSLATION):
    assert not changed(flags, here, other)


def test_versions_are_seen(
  here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(code, '_code_of', code._code_of.__wrapped__)
  before = code.executed_code(Config(), here)
  assert {*before.versions} >= {'jax', 'jaxlib', 'flax', 'optax', 'numpy'}
  bpe = override(Config(), {'task.tokenizer': 'bpe'})
  assert 'tokenizers' in code.executed_code(bpe, here).versions
  seen = {before.digest}
  for package in ('jax', 'flax', 'optax'):
    monkeypatch.setattr(reach, 'version', lambda n, p=package: f'1{n == p}')
    seen.add(code.executed_code(Config(), here).digest)
  assert len(seen) == 4


# What runs is among what is found. ---------------------------------------


class _Executed:
  """Notes the functions of the project that run."""

  def __init__(self) -> None:
    self.names: set[str] = set()

  def __call__(self, frame: FrameType, event: str, argument: object) -> None:
    del argument
    path = frame.f_code.co_filename
    if event == 'call' and path.startswith((f'{ROOT}/model', f'{ROOT}/train')):
      self.names.add(frame.f_code.co_qualname.partition('.')[0])


FAMILIES = (
  {},
  {'task': 'mlm', 'model': 'encoder', 'norm': 'rmsnorm', 'optimizer': 'sgd'},
  {'position': 'rope', 'score': 'l2', 'average': 'ema', 'microbatches': '2'},
  {'task': 'most_frequent', 'model': 'classifier', 'output': 'gate'},
  {'task': 'regression', 'read_out': 'last'},
)


@pytest.mark.parametrize(
  'flags', [FAMILIES[0], *(pytest.param(f, marks=SLOW) for f in FAMILIES[1:])]
)
def test_whatever_runs_is_found(
  here: Project, flags: Flags, tmp_path: pathlib.Path
) -> None:
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be\n' * 40)
  small = {'d_model': '8', 'num_layers': '1', 'seq_len': '8', 'num_heads': '2'}
  reads = flags.get('task') not in ('most_frequent', 'regression')
  config = override(
    Config(), {**small, **flags, **({'task.path': str(text)} if reads else {})}
  )
  executed = _Executed()
  sys.setprofile(executed)
  try:
    data = config.task.load()
    dims = config.sizes(data.vocabulary)
    sig, values = signature(config, data, SharedLayout((jax.devices()[0],)))
    made = get_program(sig)
    state = jax.eval_shape(functools.partial(init_state, config, dims))
    arrays = dict(data.arrays)
    jax.eval_shape(made.chunk, state, values, arrays, 3)
    jax.eval_shape(made.evaluate, state.params, values, arrays)
  finally:
    sys.setprofile(None)
  assert {'train_step', 'training_sums', 'Mlp'} <= executed.names
  absent = executed.names - {*code.executed_code(config, here).parts}
  assert absent <= NO_FIGURE


# Where it runs, and what is refused when a record is made.
NO_FIGURE = {'SharedLayout', '_checked', '_typed', '_bounded'}
NO_FIGURE |= {'variants', 'variant_list', 'record_list', 'without_none'}
NO_FIGURE |= {'members', 'problem', 'objective_problem'}
NO_FIGURE |= {'max_visible_keys', 'distance', '_learns'}
NO_FIGURE |= {'only_padding', 'shows_padding'}
NO_FIGURE |= {'problems', '_idle', '_tie_problems', '_family_problems'}


# What a record says. ---------------------------------------


def _recorded(other: Mapping[str, object]) -> dict[str, Any]:
  return {**code.describe_code(Config()), **other}


def test_standing() -> None:
  own = _recorded({})
  assert code.code_status(own, Config()) == 'same'
  # Other files, and the same code: comments, say.
  assert code.code_status(_recorded({'sources': 'x'}), Config()) == 'same'
  edited = _recorded({'sources': 'x', 'digest': 'y'})
  assert code.code_status(edited, Config()) == 'other'
  versions = {**dict(own['versions']), 'jax': '0.1'}
  older = _recorded({'versions': versions, 'digest': 'y'})
  assert code.code_status(older, Config()) == 'other'
  assert 'jax 0.1 there' in code.code_differences(older, Config())[0]
  assert code.code_status(None, Config()) == 'unknown'


def test_who_goes_on_with_other_code_is_of_both() -> None:
  own = _recorded({})
  assert code.join_code(own, own) == own
  both = code.join_code(_recorded({'digest': 'a'}), own)
  assert both['digest'] == f'a+{own["digest"]}'
  assert code.join_code(both, own) == both
  assert code.code_status(both, Config()) == 'other'
  late = code.join_code(None, own)
  assert code.code_status(late, Config()) == 'unknown'
  assert (
    code.code_status({**late, 'sources': 'x', 'digest': 'unknown+y'}, Config())
    == 'other'
  )


@pytest.mark.parametrize(
  'record',
  [
    None,
    [],
    {},
    {'code': 3},
    {'code': {'digest': 'x'}},
    {'code': {'digest': 'x', 'sources': 'y', 'versions': []}},
  ],
)
def test_a_record_that_says_nothing_whole_says_nothing(record: object) -> None:
  assert code.code_in_record(record) is None
