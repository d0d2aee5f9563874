"""Stratified choice of a tenth of the rows of each label."""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

TENTH = 10


def tenth_of_each(
  order: Sequence[str], keys: Sequence[str], labels: Sequence[str]
) -> set[str]:
  """Chooses the first keys of each label that have a tenth of its rows.

  The rows of a key stay together; a key with several labels counts for its most
  frequent one.  Each label of a chosen row is also a label of some row that is
  not chosen.

  Args:
    order: each key once, in the order in which they are chosen.
    keys: key of each row.
    labels: label of each row.
  """
  sizes, usual = Counter(keys), _most_frequent(keys, labels)
  strata: defaultdict[str, list[str]] = defaultdict(list)
  for key in order:
    strata[usual[key]].append(key)
  chosen = set[str]()
  for stratum in strata.values():
    chosen |= _tenth(stratum, sizes)
  return chosen - _with_unseen_label(chosen, keys, labels)


def _most_frequent(
  keys: Sequence[str], labels: Sequence[str]
) -> dict[str, str]:
  """Returns the most frequent label of the rows of each key."""
  found: defaultdict[str, Counter[str]] = defaultdict(Counter)
  for key, label in zip(keys, labels, strict=True):
    found[key][label] += 1
  return {
    key: max(sorted(counts), key=counts.__getitem__)
    for key, counts in found.items()
  }


def _tenth(keys: Sequence[str], sizes: Counter[str]) -> set[str]:
  """Chooses the first keys that together have at most a tenth of the rows.

  A key with too many rows for that is skipped.  If there are two keys or more,
  at least one is chosen, if necessary the one with the fewest rows.
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


def _with_unseen_label(
  held: Set[str], keys: Sequence[str], labels: Sequence[str]
) -> set[str]:
  """Returns the held-out keys with a label that no other key has."""
  rows = list(zip(keys, labels, strict=True))
  known = {label for key, label in rows if key not in held}
  return {key for key, label in rows if key in held and label not in known}
