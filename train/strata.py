"""Strata: a tenth of the rows of each label, those of one text together."""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

TENTH = 10


def tenth_of_each(
  order: Sequence[str], keys: Sequence[str], labels: Sequence[str]
) -> set[str]:
  """Returns keys that have a tenth of the rows of each label, the first ones.

  A key whose rows have several labels counts for the most frequent.  Whatever
  label is chosen, some row that is not chosen has it too.

  Args:
    order: every key once, in the order in which they are chosen.
    keys: of each row.
    labels: of each row.
  """
  sizes, usual = Counter(keys), _usual(keys, labels)
  strata: defaultdict[str, list[str]] = defaultdict(list)
  for key in order:
    strata[usual[key]].append(key)
  chosen = set[str]()
  for stratum in strata.values():
    chosen |= _tenth(stratum, sizes)
  return chosen - _alone(chosen, keys, labels)


def _usual(keys: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
  """Returns the most frequent label of the rows of each key."""
  found: defaultdict[str, Counter[str]] = defaultdict(Counter)
  for key, label in zip(keys, labels, strict=True):
    found[key][label] += 1
  return {
    key: max(sorted(counts), key=counts.__getitem__)
    for key, counts in found.items()
  }


def _tenth(keys: Sequence[str], sizes: Counter[str]) -> set[str]:
  """Returns the first keys that have a tenth of all rows.

  A key with too many rows is passed over; of two keys or more one is chosen,
  that with the fewest rows if need be, and one is not.
  """
  left = (sum(sizes[key] for key in keys) + TENTH // 2) // TENTH
  chosen = set[str]()
  for key in keys:
    if sizes[key] <= left:
      chosen.add(key)
      left -= sizes[key]
  if len(keys) < 2:
    return set()
  return chosen or {min(keys, key=sizes.__getitem__)}


def _alone(
  held: Set[str], keys: Sequence[str], labels: Sequence[str]
) -> set[str]:
  """Returns keys to judge of which a label would not be trained on."""
  rows = list(zip(keys, labels, strict=True))
  known = {label for key, label in rows if key not in held}
  return {key for key, label in rows if key in held and label not in known}
