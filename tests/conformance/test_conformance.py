"""Every flag and every pair of choices is effective, or refused with a reason.

Refusals are tried in full.  What an accepted configuration computes is checked
on few rows that hold every choice, and by `pytest -m full` on a covering array
of all pairs.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping

import pytest

import pages
from helpers.source import ROOT
from model import cache
from model.architecture.architecture import Architecture
from model.backends.kernels import FusedKernel
from model.core.field import (
  FieldError,
  field_types,
  unparse,
  variant_list,
  variants,
)
from spec import conformance, covering
from spec.checks import check
from spec.conformance import Choice, Row, described
from train.config.config import Config
from train.flags.schema import override, to_flags

pytestmark = pytest.mark.usefixtures('quick_compilation')

PARTS = 48  # of the covering array, each a test
TURNS = 8  # runs with ABLAX_PART=0, 1, ... that try all of them together


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
  for field, hint in field_types(Architecture).items():
    for tag in variants(hint) or variant_list(hint):
      alone = Choice(field, _member(field, tag))
      refused = conformance.refusal(alone) or isinstance(
        alone.value, FusedKernel
      )
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


def test_pages_that_code_writes_are_up_to_date() -> None:
  assert not pages.stale().keys(), f'run: {pages.COMMAND}'


# What the table says, read back and compared with what is built. --------------

PAGE = ROOT / 'docs' / 'compatibility.md'
TASKS = {
  'decoder': ('text', 'mlm'),
  'encoder': ('mlm',),
  'encoder_decoder': ('translation',),
  'classifier': ('classification',),
}


PARTIAL = ('chunked', 'tokamax', 'cudnn')


def built(flags: Mapping[str, str]) -> Config | None:
  """Returns the trial of a command line, or none if it is refused."""
  try:
    return override(Config(), flags)
  except FieldError:
    return None


def contexts(flag: str, text: str) -> Iterator[dict[str, str]]:
  """Yields command lines in which a choice is made; a mask needs others."""
  families = [text] if flag == 'model' else ['decoder']
  if flag == 'mask':
    families = [family for family in TASKS if family != 'encoder_decoder']
  for family in families:
    for task in TASKS[family]:
      yield {'model': family, 'task': task, flag: text}
      if flag == 'mask':
        yield {'model': family, 'task': task, flag: f'causal,{text}'}


def by_backend(tag: str) -> Callable[[dict[str, str]], bool]:
  """Returns whether a backend takes a command line."""
  # In the one type that all backends take.
  own = {'backend': tag, 'dtype': 'bfloat16'}
  return lambda flags: built(flags | own) is not None


def from_cache(flags: dict[str, str]) -> bool:
  """Returns whether a command line has a cache, its prompt being all."""
  if (config := built(flags)) is None:
    return False
  dims = config.dims(vocab_size=7)
  try:
    cache.empty(config.architecture, dims, 1, config.seq_len, config.seq_len)
  except ValueError:
    return False
  return True


def cells() -> Iterator[tuple[str, str, str, str]]:
  """Yields (flag, choice, column, cell) of the table of choices."""
  lines = PAGE.read_text().split('## Choices')[1].split('## Pairs')[0]
  head, _, *rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in lines.splitlines()
    if line.startswith('|')
  ]
  for first, choices, *own in rows:
    for column, cell in zip(head[2:], own, strict=True):
      for choice in re.findall('`(.*?)`', choices):
        yield first.strip('`-'), choice, column, cell


def test_the_table_of_choices_is_what_is_built() -> None:
  seen = set()
  for flag, choice, column, cell in cells():
    tag = re.fullmatch('not by `(.*)`', column)
    does = by_backend(tag[1]) if tag else from_cache
    assert tag or column == 'not from a cache'
    seen.add((flag, choice, column))
    tried = list(contexts(flag, choice))
    assert any(built(flags) for flags in tried), f'{flag}={choice}'
    where = f'{column}: --{flag}={choice}'
    names = re.findall(rf'`{choice}(?: (.*?))?`', cell)
    plain = [extra for extra in names if not extra.startswith('--')]
    assert any(map(does, tried)) == (not plain), where
    for extra in filter(None, names):
      for option in re.findall(r'--(\S+=\S+)', extra):
        more = dict([option.split('=')])
        can = any(does(flags | more) for flags in tried)
        assert can == extra.startswith('unless'), f'{where} {extra}'
  columns = ['not from a cache', *(f'not by `{t}`' for t in PARTIAL)]
  assert seen == {
    (name, tag, column)
    for name, hint in field_types(Architecture).items()
    for tag in variants(hint) or variant_list(hint)
    for column in columns
    if name not in conformance.UNLISTED
  }


def named(text: str) -> list[Choice]:
  """Returns the choices that a line names: '--mask=full | causal,window'."""
  flag, _, values = text.removeprefix('--').partition('=')
  found = []
  for value in values.split(' | '):
    name, _, extra = value.partition(' ')
    forms = [c for c in conformance.axes()[flag] if unparse(c.value) == name]
    assert forms, f'--{flag}={name}'
    options = [o.split('=') for o in re.findall(r'--(\S+=\S+)', extra)]
    marked = [c for c in forms if any('='.join(o) in c.text for o in options)]
    assert len(marked) == len(options), value
    if not extra:
      found += forms
    elif extra.startswith('unless'):
      found += [c for c in forms if c not in marked]
    else:
      found += marked
  return found


@pytest.mark.slow
def test_the_list_of_refusals_is_what_is_refused() -> None:
  """Each line holds, and no choice or pair is missing."""
  listed: set[frozenset[Choice]] = set()
  for line in PAGE.read_text().split('## Refused')[1].splitlines():
    if line.startswith('*'):
      *names, error = re.findall('`(.*?)`', line)
      assert 1 <= len(names) <= 2
      for group in itertools.product(*map(named, names)):
        refused = conformance.refusal(*group)
        assert refused, f'{line}: {" ".join(map(str, group))}'
        listed.add(frozenset(group))
      first = [named(name)[0] for name in names]
      assert str(conformance.refusal(*first)) == error
  alone = [c for c, error in conformance.singles().items() if error]
  assert {frozenset([c]) for c in alone} == {g for g in listed if len(g) == 1}
  one = [
    [c for c in choices if len(_items(c)) < 2 and c not in alone]
    for choices in conformance.axes().values()
  ]
  for some, more in itertools.combinations(one, 2):
    for pair in itertools.product(some, more):
      refused = conformance.refusal(*pair)
      assert (refused is not None) == (frozenset(pair) in listed), str(refused)


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


def test_the_turns_hold_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
  seen = []
  for part in range(TURNS):
    monkeypatch.setenv('ABLAX_PART', str(part))
    seen += turn()
  assert sorted(seen) == [*range(PARTS)]
  monkeypatch.setenv('ABLAX_PART', '')
  assert turn() == range(PARTS)


@pytest.mark.slow
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
    if covering.refused(*pair) is None and pair not in held
  ]
  assert not missing


@pytest.mark.parametrize('field', ['mask', 'output'])
def test_each_family_has_each_list_member_that_goes_with_it(field: str) -> None:
  """As what goes with a decoder may not go with another, in longer lists."""
  held = {
    (type(row['model'].value), item.tag)
    for row in covering.array()
    for item in _items(row[field])
  }
  for family in conformance.axes()['model']:
    for choice in conformance.axes()[field]:
      if covering.refused(family, choice) is None:
        for item in _items(choice):
          assert (type(family.value), item.tag) in held, f'{family} {choice}'


# What is accepted. ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('row', covering.sample(), ids=described)
def test_a_sample_of_every_choice(row: Row) -> None:
  check(row)


def turn() -> range:
  """Returns the parts that $ABLAX_PART chooses; all where it is empty."""
  chosen = os.environ.get('ABLAX_PART')
  return range(int(chosen), PARTS, TURNS) if chosen else range(PARTS)


@pytest.mark.full  # Some 20 minutes of compilation; an eighth of that a turn.
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('part', turn())
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
