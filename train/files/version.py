"""Compatibility with files of other versions of this code: formats and flags.

A working directory, a trial and a checkpoint each carry a format number, which
is read before the rest.  If this version cannot read the format, it is refused
with one line and left unchanged.

The number grows when older files would be misread.  A new flag does not change
it: a flag that a record lacks is taken to be at its default.
"""

import dataclasses
import functools
from collections.abc import Mapping

from model.core.field import Record
from train.core.errors import DataError
from train.flags.schema import non_default_flags, to_flags

FIRST = 1  # the format of files from before there were format numbers


@dataclasses.dataclass(frozen=True)
class FormatRange:
  """The formats that this version reads, of one kind of file or folder.

  Attributes:
    oldest: the oldest format that is read.
    newest: the newest format that is read, which is also the one written.
    older: advice for the error message about an older format.
  """

  oldest: int
  newest: int
  older: str = 'use the version that wrote it'

  def problem(self, found: int) -> str:
    """Returns why a format cannot be read, or '' if it can."""
    if found > self.newest:
      return (
        f'is of format {found}, and this version reads up to {self.newest}: '
        'use the version that wrote it'
      )
    if found < self.oldest:
      return (
        f'is of format {found}, and this version reads from {self.oldest} on: '
        f'{self.older}'
      )
    return ''


# In directories of format 1 the id of a trial depends on all of its flags, even
# those at their defaults, so no trial would be found again.  Reading works, as
# the folders of trials are the same.
WORKDIR = FormatRange(
  oldest=2,
  newest=2,
  older='begin another, in which trials have other names (--generate, '
  '--evaluate and --init_from read those of this one)',
)
WORKDIR_READ_ONLY = FormatRange(oldest=1, newest=2)
TRIAL = FormatRange(oldest=1, newest=2)
CHECKPOINT = FormatRange(oldest=1, newest=2)


class UnreadableFormat(DataError):
  """A file or folder has a format that this version cannot read.

  Attributes:
    rule: the problem, without the name of the file.
  """

  def __init__(self, where: object, rule: str):
    super().__init__(f'{where}: {rule}')
    self.rule = rule


def check_format(value: object, where: object, read: FormatRange) -> None:
  """Checks a format number that was read from a file.

  Args:
    value: the value of the field `format`.
    where: the file or folder, for the error message.
    read: the formats that are accepted.

  Raises:
    OtherFormat: the format is not among them.
    ValueError: the value is no format number.
  """
  if type(value) is not int or value < FIRST:
    raise ValueError('has no valid format number')
  if problem := read.problem(value):
    raise UnreadableFormat(where, problem)


@functools.cache
def _defaults(cls: type[Record]) -> Record:
  return cls()


def flag_differences(
  flags: Mapping[str, str], record: Record
) -> dict[str, tuple[str | None, str | None]]:
  """Returns the flags whose recorded values differ from a configuration.

  A flag that was not recorded did not exist then, and counts as its default.

  Args:
    flags: all recorded flags, including those that were at their defaults.
    record: the current configuration.

  Returns:
    (recorded value, current value) by flag; None where the flag does not exist,
    or has no meaning with the other choices.
  """
  here = to_flags(record)
  moved = non_default_flags(_defaults(type(record)), record)
  found = {}
  for flag in sorted({*flags, *here}):
    then, now = flags.get(flag), here.get(flag)
    if then != now and (then is not None or flag in moved):
      found[flag] = then, now
  return found


def describe_difference(flag: str, then: str | None, now: str | None) -> str:
  """Returns one of the differences as a phrase, from the recorded side."""
  if then is None:
    return f'without --{flag}={now}'
  if now is None:
    return f'with --{flag}={then}, which has no meaning here'
  return f'with --{flag}={then}, not {now}'
