"""Pages of the documentation that code writes: python -m tests.pages.

Writes them all, here, and says which had become stale.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]  # as pytest has it

from spec import conformance  # noqa: E402  # after the path is set

COMMAND = 'python -m tests.pages'
PAGES: Mapping[str, Callable[[], str]] = {
  'docs/compatibility.md': conformance.page,
}


def stale() -> dict[str, str]:
  """Returns what the pages should hold that hold something else."""
  wanted = {name: page() for name, page in PAGES.items()}
  return {
    name: text
    for name, text in wanted.items()
    if not (ROOT / name).exists() or (ROOT / name).read_text() != text
  }


def main() -> None:
  """Writes the pages that are stale."""
  for name, text in stale().items():
    (ROOT / name).write_text(text)
    print(f'written: {name}')


if __name__ == '__main__':
  main()
