"""Every flag and every pair of choices is effective, or refused with a reason.

Refusals are tried in full.  What an accepted configuration computes is checked
on few rows that hold every choice, and by `pytest -m full` on a covering array
of all pairs.
"""

import itertools
from collections.abc import Iterator

import pytest

import conformance
import covering
from checks import check
from conformance import Choice, Row, described
from model.architecture import Architecture
from model.backend import Fused
from model.field import hints, variant_list, variants
from source import ROOT
from train.schema import override, to_flags

pytestmark = pytest.mark.usefixtures('quick_compilation')

PARTS = 48  # of the covering array, each a test


# Refusals. --------------------------------------------------------------------


def test_refusals_name_flags_and_a_way_out() -> None:
  """Any other exception than FieldError would end the test by itself."""
  wrong = [
    f'{" ".join(map(str, choices))}: {error}: {found}'
    for choices, error in _refused()
    if (found := conformance.complaint(error, choices))
  ]
  assert not wrong, '\n'.join(wrong)


def _refused() -> Iterator[tuple[tuple[Choice, ...], conformance.FieldError]]:
  for choice, error in conformance.singles().items():
    if error is not None:
      yield (choice,), error
  for pair, error in conformance.pairs().items():
    if error is not None:
      yield pair, error


def test_every_member_is_accepted_somewhere() -> None:
  """Else the numbers in `conformance.VALUES` do not suit a new member."""
  used = {
    (choice.field, item.tag)
    for row in covering.sample()
    for choice in row.values()
    for item in _items(choice)
  }
  for field, hint in hints(Architecture).items():
    for tag in variants(hint) or variant_list(hint):
      alone = Choice(field, _member(field, tag))
      refused = conformance.refusal(alone) or isinstance(alone.value, Fused)
      assert (field, tag) in used or refused, f'{field}={tag} is in no row'


def _items(choice: Choice) -> list[conformance.Variant]:
  items = choice.value if isinstance(choice.value, tuple) else [choice.value]
  return [item for item in items if isinstance(item, conformance.Variant)]


def _member(field: str, tag: str) -> object:
  """Returns the value of the first choice that holds a member."""
  return next(
    choice.value
    for choice in conformance.axes()[field]
    for item in _items(choice)
    if item.tag == tag
  )


def test_every_flag_of_the_architecture_varies() -> None:
  for field, choices in conformance.axes().items():
    assert len(choices) > 1, f'{field}: give another value in VALUES'


def test_the_documentation_holds_the_table() -> None:
  path = ROOT / 'docs' / 'compatibility.md'
  assert path.read_text() == conformance.page(), (
    'PYTHONPATH=tests python -m conformance > docs/compatibility.md'
  )


def test_accepted_choices_are_flags() -> None:
  """What is tried here can be written on a command line."""
  for choice, error in conformance.singles().items():
    if error is None and choice.field != 'task':
      made = conformance.configured({choice.field: choice})
      flags = {k: v for k, v in to_flags(made).items() if k != 'task'}
      flags = {k: v for k, v in flags.items() if k[:5] != 'task.'}
      family = Choice('model', made.architecture.model)
      base = conformance.configured({'model': family})
      assert override(base, flags) == made


# Covering arrays. -------------------------------------------------------------


def test_the_array_holds_every_accepted_pair() -> None:
  columns = covering.columns()
  held = {
    pair
    for row in covering.array()
    for pair in itertools.combinations([row[f] for f in columns], 2)
  }
  missing = [
    pair
    for some, more in itertools.combinations(columns.values(), 2)
    for pair in itertools.product(some, more)
    if conformance.refusal(*pair) is None and pair not in held
  ]
  assert not missing


# What is accepted. ------------------------------------------------------------


@pytest.mark.parametrize('row', covering.sample(), ids=described)
def test_a_sample_of_every_choice(row: Row) -> None:
  check(row)


@pytest.mark.full  # Some 20 minutes of compilation.
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('part', range(PARTS))
def test_all_pairs(part: int) -> None:
  """Tries each row of the part, whatever befalls another."""
  wrong = []
  for row in covering.array()[part::PARTS]:
    try:
      check(row)
    except Exception as e:
      e.add_note(f'of the row {described(row)}')
      wrong.append(e)
  if wrong:
    raise ExceptionGroup(f'{len(wrong)} rows', wrong)
