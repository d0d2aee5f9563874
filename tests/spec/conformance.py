"""Which choices go together: axes read off the unions, and refusals.

Everything is read off the fields of `Architecture`, and off the open union of
tasks: a new member of any union joins by being listed there, a new scalar by
one line of `VALUES` at most.

`python -m tests.pages` writes the table of the documentation.
"""

import collections
import dataclasses
import functools
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from model.architecture.architecture import Architecture
from model.architecture.family import Decoder, FamilyBase
from model.architecture.layer_choices import LayerChoices
from model.attention.projections.heads import Widths
from model.backends.base import BackendBase, Chunked
from model.backends.kernels import Cudnn, Tokamax
from model.cache import decoding_problem
from model.core.field import (
  FieldError,
  Meta,
  Variant,
  field_types,
  meta_of,
  unparse,
  variant_list,
  variants,
)
from model.layers.feedforward import Mlp
from model.layers.norm import RmsNorm
from spec.families import learned
from train.config.config import Config
from train.flags.schema import flag_specs, parse_flag
from train.optim.optimizer import Optimization
from train.optim.sgd import Sgd
from train.tasks.base import Task

# Backends that do not serve every choice.
PARTIAL = (Chunked(), Tokamax(), Cudnn())

# Values of numbers of which the rule in `_numbers` knows no good ones.
VALUES: Mapping[str, tuple[Any, ...]] = {
  'num_heads': (1, 2, 3),
  'num_kv_heads': (1, 2),
  'head_dim': (5, 6),
  'd_model': (24,),
  # A lower one leaves the distances of some scores no gradient at all.
  'logit_cap': (5.0,),
  'pattern': (
    (LayerChoices(norm=RmsNorm()), LayerChoices(feedforward=Mlp('relu'))),
  ),
  'feedforward.capacity': (0.5,),
  'feedforward.experts': (3,),
}


# What the table of choices has no line for: vectors are read and predicted
# otherwise than the tokens of the base, by what test_vectors.py tries.
UNLISTED = ('task', 'backend', 'read_in', 'read_out')

# Steepest descent: an update is then as near to another as the gradients are.
BASE = Config(
  task=learned(Decoder()),
  seq_len=8,
  batch_size=2,
  steps=4,
  architecture=Architecture(num_layers=2, d_model=16, num_heads=4),
  optimization=Optimization(
    learning_rate=0.1, warmup_steps=0, optimizer=Sgd(), weight_decay=0.0
  ),
)


# Choices. ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Choice:
  """One value of a field of the architecture, or the task."""

  field: str
  value: Any

  @functools.cached_property
  def text(self) -> str:
    """'position=t5 position.bidirectional=true': what differs from defaults."""
    words = [f'{self.field}={unparse(self.value)}']
    items = self.value if isinstance(self.value, tuple) else (self.value,)
    for item in items:  # a task is as it is by default
      if isinstance(item, Variant) and not isinstance(item, Task):
        words += _options(f'{self.field}.', item)
    return ' '.join(words)

  @property
  def is_list(self) -> bool:
    """Returns whether it is a list of variants, each a choice by itself."""
    return bool(variant_list(field_types(Architecture).get(self.field)))

  def __str__(self) -> str:
    return self.text


def _options(prefix: str, variant: Variant) -> Iterator[str]:
  """Yields what differs from the variant that its tag alone gives."""
  first = _forms(prefix, type(variant))[0]
  for name, value in vars(variant).items():
    if value != vars(first)[name]:
      yield f'{prefix}{name}={unparse(value)}'
      if isinstance(value, Variant):
        yield from _options(f'{prefix}{name}.', value)


@functools.cache
def axes() -> dict[str, tuple[Choice, ...]]:
  """Returns the choices of each field, that of the base first."""
  found = {}
  for name, hint in field_types(Architecture).items():
    base = vars(BASE.architecture)[name]
    values = _values(name, hint, meta_of(Architecture, name), base)
    found[name] = tuple(Choice(name, v) for v in _unique([base, *values]))
  tasks = [
    cls() for cls in variants(Task).values() if cls is not type(BASE.task)
  ]
  found['task'] = tuple(Choice('task', v) for v in [BASE.task, *tasks])
  return found


def _values(path: str, hint: Any, meta: Meta, default: Any) -> list[Any]:
  """Returns values of a field, the default among them."""
  args = typing.get_args(hint)
  if path in VALUES:
    return [default, *VALUES[path]]
  if choices := variants(hint):
    return [f for cls in choices.values() for f in _forms(f'{path}.', cls)]
  if choices := variant_list(hint):
    forms = [_forms(f'{path}.', cls) for cls in choices.values()]
    pairs = itertools.combinations([first for first, *_ in forms], 2)
    return [*((f,) for more in forms for f in more), *pairs]
  if types.NoneType in args:
    (inner,) = [a for a in args if a is not types.NoneType]
    return [None, *_values(path, inner, meta, None)]
  if typing.get_origin(hint) is typing.Literal:
    return list(args)
  if hint is bool:
    return [False, True]
  return [default, *_numbers(hint, meta, default)]


def _numbers(hint: Any, meta: Meta, default: Any) -> list[Any]:
  """Returns another number, within its bounds, or nothing for a text."""
  low = 0 if meta.min is None else meta.min
  if hint is int:
    return [int(low) + 2 if default is None else default + 1]
  if hint is float:
    return [0.75 * default if default else float(low) + 0.25]
  return []


@functools.cache
def _forms(prefix: str, cls: type[Variant]) -> tuple[Any, ...]:
  """Returns a variant, and again with each other value of each field.

  Whole numbers are so small that a few positions reach them.
  """
  small = {
    name: int(meta_of(cls, name).min or 0) + 2
    for name, hint in field_types(cls).items()
    if hint is int
  }
  first = cls(**small)
  found = [first]
  for name, hint in field_types(cls).items():
    own = vars(first)[name]
    if hint is not int:
      values = _values(prefix + name, hint, meta_of(cls, name), own)
      found += [dataclasses.replace(first, **{name: v}) for v in values]
  return tuple(_unique(found))


def usual(field: str, variant: Variant) -> Any:
  """Returns the variant that others of its class are compared with."""
  return _forms(f'{field}.', type(variant))[0]


def _unique(values: Sequence[Any]) -> list[Any]:
  return [v for n, v in enumerate(values) if v not in values[:n]]


# What is accepted. ------------------------------------------------------------

Row = Mapping[str, Choice]
Tasks = Callable[[FamilyBase], Task]


def configured(choices: Row, tasks: Tasks = learned) -> Config:
  """Returns the base with these choices; raises FieldError.

  Args:
    choices: by field.
    tasks: what a family learns where no task is among the choices.
  """
  values = {name: choice.value for name, choice in choices.items()}
  family = values.get('model', BASE.architecture.model)
  task = values.pop('task', tasks(family))
  architecture = dataclasses.replace(BASE.architecture, **values)
  return dataclasses.replace(
    BASE, architecture=architecture, task=task, objective=task.objective
  )


def refusal(*choices: Choice, tasks: Tasks = learned) -> FieldError | None:
  """Returns why some choices, each of another field, do not go together."""
  try:
    configured({choice.field: choice for choice in choices}, tasks)
  except FieldError as e:
    return e
  return None


@functools.cache
def singles(tasks: Tasks = learned) -> dict[Choice, FieldError | None]:
  """Returns each choice with why it is refused, if it is."""
  every = [c for choices in axes().values() for c in choices]
  return {c: refusal(c, tasks=tasks) for c in every}


@functools.cache
def paired(tasks: Tasks = learned) -> dict[str, tuple[Choice, ...]]:
  """Returns the choices that go into pairs.

  Of lists that are refused by themselves only those of one: what is wrong with
  a longer one is wrong between its members.
  """
  return {
    field: tuple(
      c
      for c in choices
      if singles(tasks)[c] is None or not (c.is_list and len(c.value) > 1)
    )
    for field, choices in axes().items()
  }


Pair = tuple[Choice, Choice]


@functools.cache
def pairs() -> dict[Pair, FieldError | None]:
  """Returns each pair of choices with why it is refused, if it is."""
  found = {}
  for (_, some), (_, more) in itertools.combinations(paired().items(), 2):
    for pair in itertools.product(some, more):
      found[pair] = refusal(*pair)
  return found


# What a refusal says. ---------------------------------------------------------


def mentioned(error: FieldError) -> dict[str, str | None]:
  """Returns `{flag: value}` of the flags that a message names."""
  found = re.findall(r'--([a-z][a-z_.]*[a-z])(?:=([^\s,:;)]+))?', str(error))
  return {flag: value or None for flag, value in found}


def complaint(error: FieldError, choices: Sequence[Choice]) -> str | None:
  """Returns what is wrong with a message: a flag, a value, or its advice."""
  if '\n' in str(error):
    return 'more than one line'
  for flag, value in mentioned(error).items():
    if flag not in flag_specs(Config):
      return f'--{flag} is not a flag'
    if value not in (None, '') and flag != error.path:
      try:
        for option in str(value).split('|'):
          parse_flag(flag, flag_specs(Config)[flag].hint, option)
      except FieldError as e:
        return f'names a value that is none: {e}'
  # What a choice is refused for by itself may be left to say.
  left = {str(refusal(choice)) for choice in choices} - {str(error)}
  for flag, text in re.findall(r'(?:try|or) --([a-z_]+)=(\w+)', str(error)):
    again = refusal(*_with(choices, _named(flag, text)))
    if again and again.path == error.path and str(again) not in left:
      return f'--{flag}={text}, which it advises, is refused: {again}'
  if not any(str(again) in {'None', *left} for again in _next(error, choices)):
    return 'no change of one flag that it names is accepted'
  return None


def _named(flag: str, text: str) -> Choice:
  """Returns the choice that a flag and its text stand for."""
  for choice in axes()[flag]:
    if unparse(choice.value) == text:
      return choice
  return Choice(flag, parse_flag(flag, flag_specs(Config)[flag].hint, text))


def _with(choices: Sequence[Choice], other: Choice) -> list[Choice]:
  return [*(c for c in choices if c.field != other.field), other]


def _next(
  error: FieldError, choices: Sequence[Choice]
) -> Iterator[FieldError | None]:
  """Yields what is said after each change of one flag that is named."""
  for flag in mentioned(error):
    for other in axes()[flag.partition('.')[0]]:
      yield refusal(*_with(choices, other))


def described(row: Row) -> str:
  """Returns what differs from the base, as on a command line."""
  words = [c.text for c in row.values() if c != axes()[c.field][0]]
  return ' '.join(words) or 'base'


# The table of the documentation. ----------------------------------------------

HEAD = """\
# What goes with what

Written by `python -m tests.pages` from the types of the architecture; a test
holds both equal. Every choice was made by itself ({choices}), and every two
together ({pairs:,}, of which {refused:,} are refused before anything runs, in
one line that names the flag, the rule and a way out). A family has a task that
it learns, unless one is named. Flags behind a choice, or behind `unless`, are
its own.

All others run, and `pytest -m full` tries them: each choice has an effect, no
position sees what the masks hide, decoding from a cache gives what the whole
sequence gives, `chunked` gives what `reference` gives, and a trial trains
beside others as it does alone. `tokamax` and `cudnn`, which need a package or
a GPU, are tried by `tests/model/backends/test_kernels.py`.
"""

CHOICES = """\
Each choice is made by itself, all else being the default; one that is refused
so, such as a mask that needs `causal`, is made beside each other choice, and
named where none of these decodes from a cache (whose first step a `prefix` must
fit into) or is computed by a backend, in a size and type that it takes.
"""


def page() -> str:
  """Returns docs/compatibility.md."""
  single = [(c, e) for c, e in singles().items() if e is not None]
  refused = sum(e is not None for e in pairs().values())
  head = HEAD.format(
    choices=len(singles()), pairs=len(pairs()), refused=refused
  )
  return '\n'.join(
    [
      head,
      '## Choices\n',
      CHOICES,
      '| flag | choices | not from a cache | '
      f'{" | ".join(f"not by `{b.tag}`" for b in PARTIAL)} |',
      f'|:---|:---|:---|{":---|" * len(PARTIAL)}',
      *_choice_lines(),
      '',
      '## Pairs\n',
      'How many pairs of choices of two flags are refused; ✓ is none. All',
      'other flags go together whatever is chosen.\n',
      *_matrix(),
      '',
      '## Refused\n',
      *_alone_lines(single),
      *_pair_lines(),
      '',
    ]
  )


def _choice_lines() -> Iterator[str]:
  """Yields a line for each union: its members, and what they cannot do."""
  for field, choices in axes().items():
    tags = list(dict.fromkeys(t for c in choices for t in _tags(c)))
    if not tags or field in UNLISTED:
      continue
    ones = [c for c in choices if len(_tags(c)) == 1]
    missing = [
      [c for c in ones if not any(can(arch) for arch in _holding(c))]
      for can in (_cacheable, *(functools.partial(_serves, b) for b in PARTIAL))
    ]
    texts = [tags, *(_names(some, ones) for some in missing)]
    cells = [', '.join(f'`{text}`' for text in some) for some in texts]
    yield f'| {" | ".join([f"`--{field}`", *cells])} |'


def _holding(choice: Choice) -> list[Architecture]:
  """Returns accepted architectures that hold a choice: as it is, if it can."""
  if singles()[choice] is None:
    return [configured({choice.field: choice}).architecture]
  lists = [
    {c.field: c}
    for c in axes()[choice.field]
    if c.is_list and set(c.value) > set(choice.value) and singles()[c] is None
  ]
  beside = [
    {c.field: c for c in pair}
    for pair, error in pairs().items()
    if choice in pair and error is None
  ]
  return [configured(row).architecture for row in (*lists, *beside)]


def _cacheable(arch: Architecture) -> bool:
  return decoding_problem(arch, BASE.seq_len) is None


def _serves(backend: BackendBase, arch: Architecture) -> bool:
  """Returns whether a backend computes all attention, in a size it can have."""
  fitting = [
    parts._replace(
      dtype='bfloat16', widths=Widths(*(2 * width for width in parts.widths))
    )
    for parts in arch.every_parts
  ]
  return all(backend.problem(parts) is None for parts in fitting)


def _tags(choice: Choice) -> list[str]:
  items = choice.value if isinstance(choice.value, tuple) else (choice.value,)
  return [item.tag for item in items if isinstance(item, Variant) and item.tag]


def _names(some: Sequence[Choice], every: Sequence[Choice]) -> list[str]:
  """Returns the values of choices of one field, each once if it can.

  Args:
    some: the choices.
    every: of which they are some; of one that is here in one form and not in
      another, the name says in which.
  """
  found = []
  for value in dict.fromkeys(unparse(c.value) for c in some):
    forms = [c for c in every if unparse(c.value) == value]
    here = [c for c in forms if c in some]
    others = [c for c in forms if c not in some]
    if others and forms[0] in here:
      found.append(f'{value} unless {" or ".join(map(_flags, others))}')
    elif others:
      found += [f'{value} {_flags(c)}' for c in here]
    else:
      found.append(value)
  return found


def _flags(choice: Choice) -> str:
  """Returns what a choice has beside its name, as on a command line."""
  return ' '.join(f'--{word}' for word in choice.text.split()[1:])


@functools.cache
def _plain(field: str) -> tuple[Choice, ...]:
  """Returns the accepted choices of a field; of lists only what must be one."""

  def needed(choice: Choice) -> bool:
    if not choice.is_list or len(choice.value) == 1:
      return True
    return any(singles()[Choice(choice.field, (v,))] for v in choice.value)

  return tuple(c for c in axes()[field] if singles()[c] is None and needed(c))


@functools.cache
def _plain_pairs() -> dict[Pair, FieldError | None]:
  """Returns pairs of these choices."""
  return {
    pair: error
    for pair, error in pairs().items()
    if all(c in _plain(c.field) for c in pair)
  }


def _conflicts() -> dict[Pair, FieldError]:
  return {pair: e for pair, e in _plain_pairs().items() if e is not None}


def _matrix() -> Iterator[str]:
  """Yields the table of how many pairs of two flags are refused."""
  counts = collections.Counter(
    (one.field, other.field) for one, other in _conflicts()
  )
  fields = [f for f in axes() if any(f in pair for pair in counts)]
  totals = collections.Counter(
    (one.field, other.field) for one, other in _plain_pairs()
  )
  yield f'| | {" | ".join(f"`{f}`" for f in fields[1:])} |'
  yield f'|:---|{":---:|" * len(fields[1:])}'
  for n, row in enumerate(fields[:-1]):
    cells = [
      ''
      if m <= n
      else f'{counts[row, other]} of {totals[row, other]}'
      if counts[row, other]
      else '✓'
      for m, other in enumerate(fields)
    ]
    yield f'| `{row}` | {" | ".join(cells[1:])} |'


def _alone_lines(single: Sequence[tuple[Choice, FieldError]]) -> Iterator[str]:
  """Yields what is refused by itself, by its reason."""
  groups: dict[tuple[str, str], list[Choice]] = {}
  for choice, error in single:
    key = (choice.field, re.sub(r'^[\w]+ ', '', error.rule))
    groups.setdefault(key, []).append(choice)
  for (field, _), choices in groups.items():
    error = singles()[choices[0]]
    names = ' | '.join(_names(choices, axes()[field]))
    yield f'* `--{field}={names}` alone: `{error}`'


def _pair_lines() -> Iterator[str]:
  """Yields what is refused of two flags, by its reason."""
  groups: dict[tuple[str, str, str], dict[Choice, list[Choice]]] = {}
  for (one, other), error in _conflicts().items():
    tags = {*_tags(one), *_tags(other)}
    tags |= {unparse(one.value), unparse(other.value)}
    rule = re.sub('|'.join(map(re.escape, tags)), '', error.rule)
    key = (one.field, other.field, rule)
    groups.setdefault(key, {}).setdefault(one, []).append(other)
  for (field, beside, _), table in groups.items():
    merged: dict[tuple[Choice, ...], list[Choice]] = {}
    for one, others in table.items():
      merged.setdefault(tuple(others), []).append(one)
    for others, ones in merged.items():
      error = _conflicts()[ones[0], others[0]]
      names = ' | '.join(_names(ones, _plain(field)))
      yield (
        f'* `--{field}={names}` with '
        f'`--{beside}={" | ".join(_names(others, _plain(beside)))}`: `{error}`'
      )
