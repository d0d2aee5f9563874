"""What code a trial is of: a digest of what it executes.

It is a function of the configuration and the sources.  It changes with an edit
of a function that the trial executes, and with the versions of packages that it
uses; not with comments, docstrings, layout, files that are moved, or variants
that the trial does not use.  So a record tells whether the sources would give
it today.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from model.backend import chosen
from train.config import Config
from train.project import Project, current
from train.reach import PACKAGES, Reached, Start, reached, version
from train.records import read_begun
from train.strict import Damaged

# How figures come about: initial values, steps, evaluation, data.  What goes to
# a terminal, a log or a checkpoint is no part of them.
_FUNCTIONS = (
  ('train.step', 'init_state'),
  ('train.program', 'signature'),
  ('train.program', 'program'),
  ('train.feed', 'block'),
  ('train.feed', 'evaluation'),
  ('train.loop', '_advance'),
  ('train.loop', '_evaluate'),
  ('train.lane', 'Lane.judge'),
  ('train.lane', 'Lane.result'),
)
_LANE = ('train.lane', 'Lane')
_ASKED = ('load',)
# They name variants to choose among; what they choose is among `_values`, or
# made by the tokenizer.
_CHOOSING = ('stacks', 'resolved', 'cross_parts', 'choose', '_bare')

_UNKNOWN = 'unknown'  # of what was trained before there were such digests
SHOWN = 4  # differences that are named
Recorded = Mapping[str, Any] | None  # as JSON values
Standing = Literal['same', 'other', 'unknown']


def describe(config: Config) -> dict[str, Any]:
  """Returns what a record says of the code, as JSON values.

  `sources` is the digest of all files: where that is equal, nothing need be
  parsed.
  """
  project = current()
  found = code_of(config, project)
  return {
    'digest': found.digest,
    'sources': project.digest,
    'versions': dict(found.versions),
  }


def code_of(config: Config, project: Project) -> Reached:
  """Returns what a trial executes."""
  given = {
    (type(value).__module__, type(value).__qualname__)
    for value in _values(config)
  }
  return _code_of(project, frozenset(given))


@functools.lru_cache(maxsize=256)
def _code_of(project: Project, given: frozenset[tuple[str, str]]) -> Reached:
  """Returns what trials execute that hold objects of the same classes."""
  start = Start(
    [project.find(*name) for name in _FUNCTIONS],
    [project.find(*name) for name in sorted({*given, _LANE})],
    _ASKED,
    _CHOOSING,
  )
  return reached(project, start)


def _values(config: Config) -> Iterator[Any]:
  """Yields the records of a trial, and what follows from them."""
  arch = config.architecture
  yield from _below(config)
  yield from _below(arch.stacks)
  for parts in arch.every_parts:
    yield from _below(parts)
    yield chosen(arch.backend, parts, config.seq_len)


def _below(value: Any) -> Iterator[Any]:
  """Yields records and named tuples, and those in their fields."""
  if dataclasses.is_dataclass(value):
    yield value
    for item in vars(value).values():
      yield from _below(item)
  elif isinstance(value, tuple):
    if type(value) is not tuple:
      yield value
    for item in value:
      yield from _below(item)


def standing(recorded: Recorded, config: Config) -> Standing:
  """Returns whether a trial with this record is of the code that is here."""
  if recorded is None:
    return 'unknown'
  before, _, last = recorded['digest'].rpartition('+')
  versions = recorded['versions']
  same = recorded['sources'] == current().digest
  if not (same and versions == _versions(versions)):
    same = last == code_of(config, current()).digest
  if same and before in ('', _UNKNOWN):
    return 'unknown' if before else 'same'
  return 'other'


def _versions(names: Iterable[str]) -> dict[str, str | None]:
  """Returns the versions here of these packages, and of those that all use."""
  return {name: version(name) for name in sorted({*names, *PACKAGES})}


def recorded(folder: pathlib.Path) -> Recorded:
  """Returns what the folder of a trial says of its code; None if nothing."""
  try:
    return whole(read_begun(folder).code)
  except Damaged:
    return None


def checked(record: Any) -> Recorded:
  """Returns what a record says of its code; None if nothing that is whole."""
  return whole(record.get('code')) if isinstance(record, dict) else None


def whole(code: Any) -> Recorded:
  """Returns the value of `code` in a record; None if it is not whole."""
  if not isinstance(code, dict):
    return None
  digests = code.get('digest'), code.get('sources')
  tables = code.get('versions'), code.get('parts', {})
  if not all(isinstance(text, str) for text in digests):
    return None
  return code if all(isinstance(table, dict) for table in tables) else None


def resumed(before: Recorded, now: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what is said of a trial that began with other code.

  Its digest is those of both, which no code has.
  """
  first = _UNKNOWN if before is None else before['digest']
  if first.rpartition('+')[2] == now['digest']:
    return {**now, 'digest': first}
  return {**now, 'digest': f'{first}+{now["digest"]}'}


def differences(recorded: Recorded, config: Config) -> list[str]:
  """Returns what is other than when a trial was recorded, in words.

  Args:
    recorded: the record, with `parts` where those were kept.
    config: the trial.
  """
  if recorded is None:
    return []
  own = code_of(config, current())
  before = recorded['versions']
  found = [
    f'{name} {before.get(name, "absent")} there and {now or "absent"} here'
    for name, now in _versions(before).items()
    if before.get(name) != now
  ]
  parts = recorded.get('parts', {})
  names = {*parts, *own.parts} if parts else set()
  return [*found, *sorted(n for n in names if parts.get(n) != own.parts.get(n))]


def some(words: Sequence[str]) -> str:
  """Returns the first of what is other, and how much more there is."""
  more = f' and {len(words) - SHOWN} more' if len(words) > SHOWN else ''
  return ', '.join(words[:SHOWN]) + more
