"""Mixtures of choices that are drawn by name.

In turns, one more member of one union would change them all.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

# By field, then by a name that tells the members of a field apart.
Options = Mapping[str, Mapping[str, Any]]
Drawn = dict[str, str]  # the name of a member, by field

COUNT = 16  # of mixtures in which no member must be


def mixtures(
  options: Options, accepted: Callable[[Drawn], Drawn] = dict
) -> dict[str, Drawn]:
  """Returns mixtures by name, which together hold each member of each field.

  A member that is in none of them comes in one of its own.  Whoever adds a
  member changes only the mixtures that draw it.

  Args:
    options: what is mixed.
    accepted: returns of members those that go together, the first ones first.
  """
  drawn = {str(n): accepted(draw(options, str(n))) for n in range(COUNT)}
  numbered = list(drawn.values())
  for field, members in options.items():
    for member in sorted(members.keys() - {m.get(field) for m in numbered}):
      name = f'{field}-{member}'
      own = {field: member}
      drawn[name] = accepted(own | draw(options, name) | own)
      assert drawn[name].get(field) == member, f'{name} is refused'
  return drawn


def draw(options: Options, mixture: str) -> Drawn:
  """Returns the member of each field whose hash with the mixture is highest."""
  drawn = {}
  for field, members in options.items():
    hashes = {_hash(mixture, field, member): member for member in members}
    drawn[field] = hashes[max(hashes)]
  return drawn


def _hash(*words: str) -> bytes:
  return hashlib.sha256('\n'.join(words).encode()).digest()
