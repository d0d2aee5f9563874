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

from source import ROOT
from train import code, reach
from train.config import Config
from train.parallel import Shared
from train.program import program, signature
from train.project import Project, current, files
from train.schema import override
from train.step import init_state

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
  Edit('model/norm', 'RmsNorm.apply', {'norm': 'rmsnorm'}, {}),
  Edit('model/position', 'Rope.rotate', {'position': 'rope'}, {}),
  Edit('model/position', 'Learned.embed', {}, {'position': 'rope'}),
  Edit('model/mask', 'Padding.allowed', TRANSLATION, {}),
  Edit('model/mask', 'Causal.allowed', {}),
  Edit('model/score', 'Additive.logits', {'score': 'additive'}, {}),
  Edit('model/chunked', 'chunked', {'seq_len': '2048'}, {}),
  Edit('model/attention', 'reference', {}),
  Edit('model/transformer', 'init', {}),
  Edit('model/beam', 'beam_search', TRANSLATION, {}),
  Edit('train/loss', 'cross_entropy', {}),
  Edit('train/optimizer', 'Sgd.scale', {'optimizer': 'sgd'}, {}),
  Edit('train/optimizer', 'Optimization.rate', {}),
  Edit('train/average', 'Ema.weight', {'average': 'ema'}, {}),
  Edit('train/step', 'update', {}),
  Edit('train/program', '_evaluate', {}),
  Edit('train/loop', '_evaluate', {}),
  Edit('train/lane', 'Lane.result', {}),
  Edit('train/feed', 'block', {}),
  Edit('train/tasks/mlm', 'Mlm.made', {'task': 'mlm', 'model': 'encoder'}, {}),
  Edit('train/windows', 'Windows.load', {}, TRANSLATION),
  Edit('train/sentences', 'Sentences.load', TRANSLATION, {}),
  Edit('train/bleu', 'corpus_bleu', TRANSLATION, {}),
  Edit('train/tokenizer', 'Byte.train', {'task.tokenizer': 'byte'}, {}),
  Edit('train/vocabulary', 'Bytes.encode', {'task.tokenizer': 'byte'}, {}),
  Edit('train/subwords', 'Subwords.encode', {'task.tokenizer': 'bpe'}, {}),
)
# Of what it says and keeps, nothing is a figure.
HOST = (
  Edit('train/log', 'Log.write', {}),
  Edit('train/checkpoint', 'Checkpoints.save', {}),
  Edit('train/config', 'Config.problems', {}),
  Edit('experiments/table', 'summarise', {}),
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
  return current()


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
  a, b = code.code_of(config, one), code.code_of(config, other)
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
  edit(texts, 'model/norm', 'RmsNorm.apply')
  other = Project(texts)
  assert changed({'norm': 'rmsnorm'}, here, other) == {'RmsNorm'}
  for flags in ({}, {'norm': 'none'}, TRANSLATION):
    assert not changed(flags, here, other)
  # Queries are normalised by the same class.
  assert 'RmsNorm' in changed({'qk_norm': 'rms'}, here, other)


# What is no function, and runs.
LINES = (
  ('model/backend.py', 'LONG = 1024', 'LONG = 1025', {}, 'LONG'),
  (
    'model/mask.py',
    'hides_future: ClassVar[bool] = True',
    'hides_future: ClassVar[bool] = not False',
    {},
    'Causal',
  ),
  (
    'model/projections.py',
    "('query', 'key', 'key')",
    "('query', 'key', 'query')",
    {'projections': 'shared_kv'},
    'SharedKv',
  ),
  (
    'train/tasks/text.py',
    '  @property\n  def wanted',
    '  def load(self):\n    return 1\n\n  @property\n  def wanted',
    {},
    'Text',
  ),
  (
    'train/loss.py',
    '\n\n\nclass Sums',
    "\n\njax.config.update('x', 1)\n\n\nclass Sums",
    {},
    'imports',
  ),
  (
    'train/loss.py',
    'import jax.numpy as jnp',
    'import numpy as jnp',
    {},
    '_of_tokens',
  ),
  (  # A gradient that a function is given.
    'model/online.py',
    'pinned(*primals), tangents[0]',
    'pinned(*primals), -tangents[0]',
    {},
    '_pinned_jvp',
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
  dotted = f'{package}.{name}'.replace('/', '.')
  changes = (
    (rf'\b{re.escape(dotted)}\b', new.replace('/', '.')),
    (rf'\bfrom {package} import {name}\b', f'from {package} import {other}'),
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
  texts = _moved(files(ROOT), 'model/norm', 'model/norms')
  texts = _moved(texts, 'train/step', 'train/one')
  texts = _moved(texts, 'train/corpus', 'train/books')
  assert 'books.read(' in texts['train/windows.py']
  text = texts['train/loss.py']
  start, end = text.index('class Sums'), text.index('def cross_entropy')
  texts['train/sums.py'] = (
    'from typing import NamedTuple\nimport jax\n\n' + text[start:end]
  )
  texts['train/loss.py'] = (
    'from train.sums import EvaluationSums, Sums\n' + text[:start] + text[end:]
  )
  other = Project(texts)
  for flags in ({}, {'norm': 'rmsnorm'}, TRANSLATION):
    assert not changed(flags, here, other)


def test_versions_are_seen(
  here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(code, '_code_of', code._code_of.__wrapped__)
  before = code.code_of(Config(), here)
  assert {*before.versions} >= {'jax', 'jaxlib', 'flax', 'optax', 'numpy'}
  bpe = override(Config(), {'task.tokenizer': 'bpe'})
  assert 'tokenizers' in code.code_of(bpe, here).versions
  seen = {before.digest}
  for package in ('jax', 'flax', 'optax'):
    monkeypatch.setattr(reach, 'version', lambda n, p=package: f'1{n == p}')
    seen.add(code.code_of(Config(), here).digest)
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
  reads = flags.get('task') != 'most_frequent'
  config = override(
    Config(), {**small, **flags, **({'task.path': str(text)} if reads else {})}
  )
  executed = _Executed()
  sys.setprofile(executed)
  try:
    data = config.task.load()
    dims = config.sizes(data.vocabulary)
    sig, values = signature(config, data, Shared((jax.devices()[0],)))
    made = program(sig)
    state = jax.eval_shape(functools.partial(init_state, config, dims))
    arrays = dict(data.arrays)
    jax.eval_shape(made.chunk, state, values, arrays, 3)
    jax.eval_shape(made.evaluate, state.params, values, arrays)
  finally:
    sys.setprofile(None)
  assert {'update', 'cross_entropy', 'Qkv'} <= executed.names
  absent = executed.names - {*code.code_of(config, here).parts}
  assert absent <= NO_FIGURE


# Where it runs, and what is refused when a record is made.
NO_FIGURE = {'Shared', '_checked', '_typed', '_bounded'}
NO_FIGURE |= {'in_sight', '_windows', '_learns'}


# What a record says. ---------------------------------------


def _recorded(other: Mapping[str, object]) -> dict[str, Any]:
  return {**code.describe(Config()), **other}


def test_standing() -> None:
  own = _recorded({})
  assert code.standing(own, Config()) == 'same'
  # Other files, and the same code: comments, say.
  assert code.standing(_recorded({'sources': 'x'}), Config()) == 'same'
  edited = _recorded({'sources': 'x', 'digest': 'y'})
  assert code.standing(edited, Config()) == 'other'
  versions = {**dict(own['versions']), 'jax': '0.1'}
  older = _recorded({'versions': versions, 'digest': 'y'})
  assert code.standing(older, Config()) == 'other'
  assert 'jax 0.1 there' in code.differences(older, Config())[0]
  assert code.standing(None, Config()) == 'unknown'


def test_who_goes_on_with_other_code_is_of_both() -> None:
  own = _recorded({})
  assert code.resumed(own, own) == own
  both = code.resumed(_recorded({'digest': 'a'}), own)
  assert both['digest'] == f'a+{own["digest"]}'
  assert code.resumed(both, own) == both
  assert code.standing(both, Config()) == 'other'
  late = code.resumed(None, own)
  assert code.standing(late, Config()) == 'unknown'
  assert (
    code.standing({**late, 'sources': 'x', 'digest': 'unknown+y'}, Config())
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
  assert code.checked(record) is None
