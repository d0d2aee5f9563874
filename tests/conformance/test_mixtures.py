"""One more member changes only the mixtures that draw it."""

from typing import Any

import pytest

from spec.architectures import choices
from spec.mixtures import Drawn, Options, draw, mixtures

CHOICES: Options = choices(causal=False)


def together(drawn: Drawn) -> Drawn:
  """Returns what goes together by a rule of which much is refused."""
  kept: Drawn = {}
  for field, member in drawn.items():
    if all((len(member) + len(m)) % 5 for m in kept.values()):
      kept[field] = member
  return kept


@pytest.mark.parametrize('accepted', [dict, together])
@pytest.mark.parametrize('field', CHOICES)
def test_a_member_more(field: str, accepted: Any) -> None:
  before = mixtures(CHOICES, accepted)
  for member in ('new', 'newer', 'newest'):
    more = {**CHOICES, field: {**CHOICES[field], member: None}}
    after = mixtures(more, accepted)
    # What is in one of the first needs no mixture of its own any more.
    kept = before.keys() & after.keys()
    assert {name for name in before if name.isdecimal()} <= kept
    changed = {name for name in kept if after[name] != before[name]}
    # Where it is drawn, it may be refused, or others for it.
    assert all(draw(more, name)[field] == member for name in changed)
    assert len(changed) < len(kept)


@pytest.mark.parametrize('accepted', [dict, together])
def test_each_member_is_in_one(accepted: Any) -> None:
  found = mixtures(CHOICES, accepted).values()
  for field, members in CHOICES.items():
    assert {drawn.get(field) for drawn in found} - {None} == set(members)
