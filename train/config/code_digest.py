"""A digest of the code that a trial executes.

It is a function of the configuration and the sources.  It changes when a
function that the trial executes is edited, or when a package that it uses has
another version; it does not change with comments, docstrings, formatting, moved
files, or variants that the trial does not use.  So a record shows whether the
present sources would reproduce it.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from model.backends.base import kernel_platform
from train.code.project import Project, current_project
from train.code.reach import (
  PACKAGES,
  ExecutedCode,
  Roots,
  find_executed,
  version,
)
from train.config.config import Config
from train.files.records import read_trial_start
from train.files.strict import DamagedFile

# Entry points of all that metrics depend on: initial values, steps, evaluation,
# data.  Code for the terminal, logs or checkpoints is left out.
_FUNCTIONS = (
  ('train.programs.state', 'init_state'),
  ('train.programs.signature', 'signature'),
  ('train.programs.program', 'get_program'),
  ('train.host_feed', 'read_block'),
  ('train.host_feed', 'validation_batches'),
  ('train.loop', '_advance'),
  ('train.milestones', 'evaluate_lanes'),
  ('train.lane', 'Lane.compute_final_metrics'),
  ('train.lane', 'Lane.result'),
)
_LANE = ('train.lane', 'Lane')
_ASKED = ('load',)
# These functions name all variants among which they choose, so they are not
# followed; the chosen variant is among `_values`, or made by the tokenizer.
_CHOOSING = ('stacks', 'resolved', 'cross_parts', '_bare')

_UNKNOWN = 'unknown'  # code of trials that are older than these digests
MAX_DIFFERENCES = 4  # most differences that a message names
CodeRecord = Mapping[str, Any] | None  # as JSON values
CodeStatus = Literal['same', 'other', 'unknown']


def describe_code(config: Config) -> dict[str, Any]:
  """Returns the description of the code for a record, as JSON values.

  `sources` is the digest of all files: if it is equal, no file needs parsing.
  """
  project = current_project()
  found = executed_code(config, project)
  return {
    'digest': found.digest,
    'sources': project.digest,
    'versions': dict(found.versions),
  }


def executed_code(config: Config, project: Project) -> ExecutedCode:
  """Returns the code that a trial executes."""
  given = {
    (type(value).__module__, type(value).__qualname__)
    for value in _values(config)
  }
  return _code_of(project, frozenset(given))


@functools.lru_cache(maxsize=256)
def _code_of(
  project: Project, given: frozenset[tuple[str, str]]
) -> ExecutedCode:
  """Returns the code that trials execute whose values have these classes."""
  start = Roots(
    [project.find(*name) for name in _FUNCTIONS],
    [project.find(*name) for name in sorted({*given, _LANE})],
    _ASKED,
    _CHOOSING,
  )
  return find_executed(project, start)


def _values(config: Config) -> Iterator[Any]:
  """Yields the records of a configuration, and values derived from them."""
  arch = config.architecture
  yield from _below(config)
  yield from _below(arch.stacks)
  for parts in arch.every_parts:
    yield from _below(parts)
    yield arch.backend.resolved(
      parts, config.seq_len, kernel_platform()
    ).backend


def _below(value: Any) -> Iterator[Any]:
  """Yields records and named tuples, and recursively those in their fields."""
  if dataclasses.is_dataclass(value):
    yield value
    for item in vars(value).values():
      yield from _below(item)
  elif isinstance(value, tuple):
    if type(value) is not tuple:
      yield value
    for item in value:
      yield from _below(item)


def code_status(recorded: CodeRecord, config: Config) -> CodeStatus:
  """Returns whether a recorded trial was trained by the present code."""
  if recorded is None:
    return 'unknown'
  before, _, last = recorded['digest'].rpartition('+')
  versions = recorded['versions']
  same = recorded['sources'] == current_project().digest
  if not (same and versions == _versions(versions)):
    same = last == executed_code(config, current_project()).digest
  if same and before in ('', _UNKNOWN):
    return 'unknown' if before else 'same'
  return 'other'


def _versions(names: Iterable[str]) -> dict[str, str | None]:
  """Returns the versions of these packages, and of those all trials use."""
  return {name: version(name) for name in sorted({*names, *PACKAGES})}


def read_code(folder: pathlib.Path) -> CodeRecord:
  """Returns the code recorded in a trial's folder, or None if unreadable."""
  try:
    return valid_code(read_trial_start(folder).code)
  except DamagedFile:
    return None


def code_in_record(record: Any) -> CodeRecord:
  """Returns the code of a record, or None if it is missing or malformed."""
  return valid_code(record.get('code')) if isinstance(record, dict) else None


def valid_code(code: Any) -> CodeRecord:
  """Returns a record's value of `code`, or None if it is malformed."""
  if not isinstance(code, dict):
    return None
  digests = code.get('digest'), code.get('sources')
  tables = code.get('versions'), code.get('parts', {})
  if not all(isinstance(text, str) for text in digests):
    return None
  return code if all(isinstance(table, dict) for table in tables) else None


def join_code(before: CodeRecord, now: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the description of code for a trial that resumes under `now`.

  If the code has changed, its digest joins both by `+`, which no single
  version of the code equals.
  """
  first = _UNKNOWN if before is None else before['digest']
  if first.rpartition('+')[2] == now['digest']:
    return {**now, 'digest': first}
  return {**now, 'digest': f'{first}+{now["digest"]}'}


def code_differences(recorded: CodeRecord, config: Config) -> list[str]:
  """Describes each difference between the recorded and the present code.

  Args:
    recorded: the record, with digests of `parts` if it has them.
    config: the trial.
  """
  if recorded is None:
    return []
  own = executed_code(config, current_project())
  before = recorded['versions']
  found = [
    f'{name} {before.get(name, "absent")} there and {now or "absent"} here'
    for name, now in _versions(before).items()
    if before.get(name) != now
  ]
  parts = recorded.get('parts', {})
  names = {*parts, *own.parts} if parts else set()
  return [*found, *sorted(n for n in names if parts.get(n) != own.parts.get(n))]


def first_few(words: Sequence[str]) -> str:
  """Returns the first few words as a list, and how many more there are."""
  more = (
    f' and {len(words) - MAX_DIFFERENCES} more'
    if len(words) > MAX_DIFFERENCES
    else ''
  )
  return ', '.join(words[:MAX_DIFFERENCES]) + more
