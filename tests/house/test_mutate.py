"""The errors of `mutate.py` still fit the source; it is run by hand."""

import ast
import re

import pytest

from helpers.source import ROOT
from mutate import MUTATIONS, Mutation


def wrong(mutation: Mutation) -> str | None:
  """Returns why an error cannot be put into the source, if it cannot."""
  source = (ROOT / mutation.path).read_text()
  if (count := source.count(mutation.old)) != 1:
    return f'{mutation.path} holds {mutation.old!r} {count} times'
  try:
    tree = ast.parse(source.replace(mutation.old, mutation.new))
  except SyntaxError as e:
    return f'no Python: {e}'
  # Not the texts: another line break or bracket is no error.
  if ast.dump(tree) == ast.dump(ast.parse(source)):
    return 'changes nothing'
  return None


@pytest.mark.parametrize('mutation', MUTATIONS, ids=lambda m: m.meaning)
def test_mutation_applies(mutation: Mutation) -> None:
  assert wrong(mutation) is None


def test_meanings_are_unique() -> None:
  """They are what chooses mutations on the command line."""
  assert len({m.meaning for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(
  ('old', 'new', 'why'),
  [
    ('no such text', '', '0 times'),
    ('key.t', 'query.t', r'[1-9]\d* times'),
    (
      'return key.t <= query.t\n',
      'return (key.t <= query.t)\n',
      'changes nothing',
    ),
    ('return key.t <= query.t\n', 'return key.t <=\n', 'no Python'),
  ],
)
def test_what_does_not_apply_is_found(old: str, new: str, why: str) -> None:
  found = wrong(
    Mutation('a test of the test', 'model/attention/mask.py', old, new)
  )
  assert found is not None
  assert re.search(why, found)
