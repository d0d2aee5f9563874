"""What another version kept: flags that were added, moved or dropped; formats.

`before` and `after` are one schema in two versions: each of its kinds of flag,
and of its kinds of change.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from model.core.field import Record, Variant, field
from train.config.config import Config, trial_id
from train.files import checkpoint
from train.files.checkpoint import Checkpoints
from train.files.durable import write_json
from train.files.records import OWNER, SPARE
from train.files.version import (
  CHECKPOINT,
  TRIAL,
  WORKDIR,
  FormatRange,
  UnreadableFormat,
  describe_difference,
  flag_differences,
)
from train.flags.schema import non_default_flags, override, to_flags
from train.inference.restore import find_trial


@functools.cache
def before() -> Record:
  """Returns the configuration of the first version, at its defaults."""

  @dataclasses.dataclass(frozen=True)
  class Inner(Variant, tag='inner'):
    size: int | None = field(None, 'Of it.', min=1)

  @dataclasses.dataclass(frozen=True)
  class Outer(Variant, tag='outer'):
    inner: Inner = field(Inner(3), 'Within.')
    rate: float = field(0.5, 'Of it.', traced=True)

  @dataclasses.dataclass(frozen=True)
  class Plain(Variant, tag='plain'):
    gone: int = field(1, 'Not there later.')

  @dataclasses.dataclass(frozen=True)
  class Window(Variant, tag='window'):
    width: int = field(8, 'Of it.')

  @dataclasses.dataclass(frozen=True)
  class Section(Record):
    clip: float | None = field(1.0, 'Norm.', traced=True)

  @dataclasses.dataclass(frozen=True)
  class Model(Record):
    depth: int = field(2, 'Layers.')
    seed: int = field(0, 'First.', traced=True)
    part: Outer | Plain = field(Outer(), 'Choice.')
    mask: tuple[Window | Plain, ...] = field((Plain(),), 'Several.')
    section: Section = field(Section(), 'Flags without a prefix.')

  return Model()


@functools.cache
def after(deep: int = 2, fast: float = 0.5, wide: int = 8) -> Record:
  """Returns that of a later one, which has more flags; and other defaults."""

  @dataclasses.dataclass(frozen=True)
  class Innermost(Variant, tag='innermost'):
    pass

  @dataclasses.dataclass(frozen=True)
  class Inner(Variant, tag='inner'):
    size: int | None = field(None, 'Of it.', min=1)
    kind: Innermost = field(Innermost(), 'Added: a choice in a choice.')

  @dataclasses.dataclass(frozen=True)
  class Outer(Variant, tag='outer'):
    inner: Inner = field(Inner(3), 'Within.')
    rate: float = field(fast, 'Of it.', traced=True)
    more: float = field(0.0, 'Added.', traced=True)

  @dataclasses.dataclass(frozen=True)
  class Plain(Variant, tag='plain'):
    instead: int | None = field(None, 'Added.', min=1)

  @dataclasses.dataclass(frozen=True)
  class Window(Variant, tag='window'):
    width: int = field(wide, 'Of it.')
    more: bool = field(True, 'Added.')

  @dataclasses.dataclass(frozen=True)
  class Section(Record):
    clip: float | None = field(1.0, 'Norm.', traced=True)
    other: str | None = field(None, 'Added.')

  @dataclasses.dataclass(frozen=True)
  class Model(Record):
    first: int = field(0, 'Added.')
    depth: int = field(deep, 'Layers.')
    seed: int = field(0, 'First.', traced=True)
    part: Outer | Plain | Innermost = field(Outer(), 'Choice.')
    mask: tuple[Window | Plain, ...] = field((Plain(),), 'Several.')
    extra: tuple[Window | Plain, ...] = field((Window(5),), 'Added.')
    section: Section = field(Section(), 'Flags without a prefix.')

  return Model()


SETTINGS: tuple[dict[str, str], ...] = (
  {},
  {'depth': '3', 'seed': '4', 'clip': 'none'},
  {'part.rate': '0.0'},  # a choice that is the default, a field that is not
  {'part.inner.size': 'none'},
  {'part.inner.size': '3', 'part': 'outer'},  # said, and the default
  {'mask': 'window,plain', 'mask.width': '9'},
  {'mask': 'window'},
)


@pytest.mark.parametrize('flags', SETTINGS, ids=str)
def test_a_flag_that_is_added_changes_no_name(flags: dict[str, str]) -> None:
  old, new = override(before(), flags), override(after(), flags)
  names = non_default_flags(before(), old)
  assert names == non_default_flags(after(), new)
  assert set(names) <= set(flags)
  assert override(before(), names) == old
  gone = {k: v for k, v in to_flags(old).items() if 'gone' not in k}
  assert set(to_flags(new)) > set(gone)
  assert flag_differences(gone, new) == {}


def test_only_what_is_not_at_its_default_is_named() -> None:
  def named(flags: dict[str, str]) -> dict[str, str]:
    return non_default_flags(before(), override(before(), flags))

  assert named({'part': 'outer', 'depth': '2', 'mask': 'plain'}) == {}
  assert named({'part.inner.size': '3'}) == {}
  for flags in ({'part': 'plain'}, {'part.inner.size': 'none'}):
    assert named(flags) == flags
  said = {'mask': 'window', 'mask.width': '8'}
  assert named(said) == {'mask': 'window'}
  base = override(before(), {'mask': 'window', 'mask.width': '9'})
  back = override(base, {'mask.width': '8'})
  assert non_default_flags(base, back) == {'mask.width': '8'}


@pytest.mark.parametrize(
  'flags',
  [
    {'seed': '0'},
    {'seed': '3', 'optimizer.b2': '0.95'},
    {'seed': '0', 'position': 'rope', 'mask': 'causal,window'},
  ],
  ids=str,
)
def test_a_trial_is_named_by_what_is_not_at_its_default(
  flags: dict[str, str],
) -> None:
  """And by the seed and the data: from now on these names stay."""
  digest = hashlib.sha256(json.dumps([flags, 'x'], sort_keys=True).encode())
  named = trial_id(override(Config(), flags), 'x')
  assert named == digest.hexdigest()[:12]
  more = {'d_model': '64', 'clip': '1.0', 'head_dim': 'none'}
  assert trial_id(override(Config(), flags | more), 'x') == named


def test_a_flag_that_is_added_and_used_is_a_difference() -> None:
  recorded = {k: v for k, v in to_flags(before()).items() if 'gone' not in k}
  for flag, value in {
    'first': '1',
    'other': 'x',
    'part.more': '0.5',
    'part.inner.kind': 'innermost',
    'extra.width': '6',
    'mask.instead': '2',
  }.items():
    used = override(after(), {flag: value})
    at_default = flag == 'part.inner.kind'  # the only one there is
    assert flag_differences(recorded, used) == (
      {} if at_default else {flag: (None, value)}
    )


def test_a_default_that_is_moved_is_a_difference_where_it_holds() -> None:
  recorded = {k: v for k, v in to_flags(before()).items() if 'gone' not in k}
  moved = after(deep=4, fast=0.25, wide=16)
  assert flag_differences(recorded, moved) == {
    'depth': ('2', '4'),
    'part.rate': ('0.5', '0.25'),
  }
  same = override(moved, {'depth': '2', 'part.rate': '0.5'})
  assert flag_differences(recorded, same) == {}


def test_a_flag_that_is_no_more_is_a_difference() -> None:
  recorded = to_flags(before())
  assert flag_differences(recorded, after()) == {'mask.gone': ('1', None)}
  found = [
    describe_difference('x', *both) for both in ((None, '1'), ('1', None))
  ]
  assert found == ['without --x=1', 'with --x=1, which has no meaning here']
  assert describe_difference('x', '1', '2') == 'with --x=1, not 2'


def test_a_directory_of_another_format_is_told_by_its_number(
  tmp_path: pathlib.Path,
) -> None:
  """Of what else it holds nothing is known."""
  (tmp_path / 'runs' / 'abc').mkdir(parents=True)
  for name in (OWNER, SPARE):
    later = {'format': WORKDIR.newest + 1, 'of': 'another time'}
    write_json(tmp_path / name, later)
  number = WORKDIR.newest
  said = rf'config.json: is of format {number + 1}, .* reads up to {number}: '
  with pytest.raises(UnreadableFormat, match=said):
    find_trial(tmp_path, 'abc')
  (tmp_path / OWNER).write_text('{"format": 1')  # damaged: the other says it
  with pytest.raises(UnreadableFormat, match='is of format'):
    find_trial(tmp_path, 'abc')
  for name in (OWNER, SPARE):
    write_json(tmp_path / name, {'of': 'before formats had numbers'})
  assert find_trial(tmp_path, 'abc') == tmp_path / 'runs' / 'abc'


# Checkpoints. -----------------------------------------------------------------

TREE = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3)}


def kept(folder: pathlib.Path, *steps: int) -> None:
  """Saves checkpoints."""
  checkpoints = Checkpoints(folder, 9, pytest.fail)
  for step in steps:
    checkpoints.save(step, TREE, {'best_step': 1, 'loss': 0.5})
  checkpoints.close()


def restored(folder: pathlib.Path, warn: Any = pytest.fail) -> int:
  """Returns the step of the newest checkpoint that is whole, and checks it."""
  checkpoints = Checkpoints(folder, 9, warn)
  try:
    found = checkpoints.restore(TREE)
  finally:
    checkpoints.close()
  assert found is not None
  assert np.array_equal(found.tree['a'], TREE['a'])
  assert found.extra == {'best_step': 1, 'loss': 0.5}
  return found.step


def test_checkpoints_of_before_are_read_and_later_ones_left(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  folder = tmp_path / 'checkpoints'
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'CHECKPOINT', FormatRange(1, 1))
    kept(folder, 1)
  path = folder / '1' / 'extra' / 'metadata'
  said = json.loads(path.read_text())
  assert said.pop('format') == 1
  path.write_text(json.dumps(said))  # as it was before formats had numbers
  assert restored(folder) == 1
  kept(folder, 2)
  assert restored(folder) == 2
  with monkeypatch.context() as patch:
    later = FormatRange(1, CHECKPOINT.newest + 1)
    patch.setattr(checkpoint, 'CHECKPOINT', later)
    kept(folder, 3)
  inside = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  number = CHECKPOINT.newest
  with pytest.raises(
    UnreadableFormat, match=rf'format {number + 1}, .* {number}: '
  ):
    restored(folder)
  found = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  assert found == inside
  # A number that is damaged is none of another format.
  path = folder / '3' / 'extra' / 'metadata'
  said = json.loads(path.read_text())
  path.write_text(json.dumps({**said, 'format': number + 2}))
  warnings: list[str] = []
  assert restored(folder, warnings.append) == 2
  assert 'checkpoint 3 is damaged' in warnings[0]


def test_what_is_written_has_the_newest_format() -> None:
  for one in (WORKDIR, TRIAL, CHECKPOINT):
    assert not one.problem(one.newest)
    assert not one.problem(one.oldest)
    assert one.problem(one.newest + 1)
    assert bool(one.problem(one.oldest - 1))
