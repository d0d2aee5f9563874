"""Covering arrays: few configurations that hold every choice, or every pair."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

from model.backends.kernels import FusedKernel
from model.core.field import FieldError, Variant
from spec.conformance import Choice, Row, axes, paired, refusal, usual
from spec.families import packed


def refused(*choices: Choice) -> FieldError | None:
  """Returns why choices do not go together where texts are packed and padded.

  So that each mask hides something beside each other choice.
  """
  return refusal(*choices, tasks=packed)


@functools.cache
def lists(field: str) -> tuple[Choice, ...]:
  """Returns few lists that hold each member, and each two that go together.

  In each family: what goes with one may not go with another, such as a list of
  masks with `segments`, which a translation has none of.
  """
  families = [usual('model', c.value) for c in axes()['model']]
  every = [_lists(field, Choice('model', f)) for f in dict.fromkeys(families)]
  return tuple(dict.fromkeys(itertools.chain(*every)))


def _lists(field: str, family: Choice) -> list[Choice]:
  """Returns such lists for one family."""
  accepted = [c for c in axes()[field] if refused(family, c) is None]
  found = [c for c in accepted if len(c.value) == 1]
  members = [c.value[0] for c in axes()[field] if len(c.value) == 1]
  wanted = [c.value for c in accepted if len(c.value) == 2]
  while wanted:
    longest = wanted[0]
    for member in members:
      longer = tuple(m for m in members if m in longest or m == member)
      if refused(family, Choice(field, longer)) is None:
        longest = longer
    held = set(itertools.combinations(longest, 2))
    wanted = [pair for pair in wanted if pair not in held]
    found.append(Choice(field, longest))
  return found


@functools.cache
def columns() -> dict[str, tuple[Choice, ...]]:
  """Returns the choices that covering arrays are made of.

  What is trained on here is made up, and kernels do not run everywhere.
  """
  return {
    field: lists(field)
    if choices[0].is_list
    else tuple(c for c in choices if not isinstance(c.value, FusedKernel))
    for field, choices in paired(packed).items()
    if field != 'task'
  }


def covering(strength: int) -> list[Row]:
  """Returns rows that hold each member and scalar, or each pair of choices.

  Greedy: the first that is still missing, and in each further column the
  choice that adds most, of those with which the row is accepted.
  """
  missing = dict.fromkeys(_wanted(strength))
  rows = []
  while missing:
    row: dict[str, Choice] = {c.field: c for c in next(iter(missing))}
    for field, choices in columns().items():
      if field not in row:
        row[field] = _best(row, choices, missing, strength)
    for group in itertools.combinations(row.values(), strength):
      missing.pop(group, None)
      missing.pop(group[::-1], None)
    rows.append(row)
  return rows


def _wanted(strength: int) -> Iterator[tuple[Choice, ...]]:
  """Yields what an array must hold."""
  for fields in itertools.combinations(columns().values(), strength):
    for group in itertools.product(*fields):
      if refused(*group) is None and (strength > 1 or _typical(*group)):
        yield group


def _typical(choice: Choice) -> bool:
  """Returns whether a variant has the fields that its tag alone gives."""
  value = choice.value
  if not isinstance(value, Variant):
    return True
  return value in (axes()[choice.field][0].value, usual(choice.field, value))


def _best(
  row: Row,
  choices: Sequence[Choice],
  missing: Mapping[tuple[Choice, ...], None],
  strength: int,
) -> Choice:
  """Returns the choice that adds most; of equal ones, the first."""

  def gain(choice: Choice) -> int:
    if strength == 1:
      return (choice,) in missing
    return sum(
      (choice, c) in missing or (c, choice) in missing for c in row.values()
    )

  for choice in sorted(choices, key=gain, reverse=True):
    if refused(*row.values(), choice) is None:
      return choice
  return choices[0]


@functools.cache
def sample() -> list[Row]:
  """Returns few rows that hold every member that is accepted."""
  return covering(1)


@functools.cache
def array() -> list[Row]:
  """Returns rows that hold every pair of choices that is accepted."""
  return covering(2)
