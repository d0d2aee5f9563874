"""Checkpoints: the only place that knows Orbax.

Orbax writes asynchronously and atomically, but restores a flipped bit without
a word.  So each checkpoint carries a digest of every array; one that does not
match, or does not restore, is set aside and the one before is taken.  Which is
the best is said by the JSON that a trial saves with each, under those digests;
Orbax is given no figure, for it would believe a damaged one.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from train.files import unused
from train.strict import Damaged

BEST = 'best_step'  # in the JSON of a checkpoint: which one is the best

# What goes wrong is raised or warned of in one line; their tracebacks of
# background threads would bury it.
for _name in ('absl', 'asyncio'):
  logging.getLogger(_name).setLevel(logging.CRITICAL)


def _without_closed_loops(before: Callable[[Any], object]) -> Any:
  """Returns a hook that drops what a failed save leaves in its threads."""

  def hook(problem: Any) -> None:
    if str(problem.exc_value) != 'Event loop is closed':
      before(problem)

  return hook


sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


class Restored(NamedTuple):
  """A checkpoint that was read back and verified."""

  step: int
  tree: Any
  extra: dict[str, Any]


@dataclasses.dataclass
class _Kept(checkpoint_managers.PreservationPolicy):
  """Which checkpoints stay: the last ones, and the best."""

  last: int
  best: int | None = None

  def should_preserve(
    self,
    checkpoints: Sequence[Any],
    *,
    context: checkpoint_managers.PreservationContext,
  ) -> Sequence[bool]:
    """Returns for each checkpoint whether it stays."""
    del context
    first = len(checkpoints) - self.last
    return [
      n >= first or found.step == self.best
      for n, found in enumerate(checkpoints)
    ]


class Checkpoints:
  """The checkpoints of one trial: the last `keep`, and the best.

  Args:
    directory: where they lie; made if absent.
    keep: how many of the last ones stay.
    warn: called with one line for each checkpoint that is set aside.
    read_only: changes nothing; another process may be at work there.

  Raises:
    Damaged: the folder cannot be read.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    keep: int,
    warn: Callable[[str], None],
    read_only: bool = False,
  ):
    self._directory = directory.absolute()
    self._warn, self._read_only = warn, read_only
    self._kept = _Kept(keep)
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=self._kept,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=not read_only,
      enable_async_checkpointing=True,
    )
    self._manager = self._open()
    self._begun = set(self.steps())

  def _open(self) -> ocp.CheckpointManager:
    """Returns Orbax's manager."""
    try:
      return ocp.CheckpointManager(self._directory, options=self._options)
    except OSError:
      raise  # of the disk, not of what lies there
    except Exception as e:
      raise Damaged(
        f'{self._directory}: cannot be read ({one_line(e)})',
        'move it away and repeat the command that trained it',
      ) from e

  def save(
    self,
    step: int,
    tree: Any,
    extra: Mapping[str, Any],
  ) -> None:
    """Starts to save arrays on the host, and JSON beside them.

    Args:
      step: names the checkpoint; one that exists, or is being written, is
        left as it is.
      tree: numpy arrays; they must not change any more.
      extra: JSON values; `best_step` among them names the checkpoint that
        stays as the best, which may be this one.
    """
    if step in self._begun:
      return
    self._begun.add(step)
    self._kept.best = extra.get(BEST)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(tree),
      extra=ocp.args.JsonSave(
        {'digests': _digests(tree, extra), 'extra': dict(extra)}
      ),
    )
    self._manager.save(step, args=items, force=True)

  def wait(self) -> None:
    """Waits for the disk; raises what went wrong there."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    """Waits and releases the threads."""
    self._manager.close()

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints, ascending."""
    # While a save runs, Orbax removes old ones: they would vanish under us.
    self._manager.wait_until_finished()
    return sorted(self._manager.all_steps(read=True))

  def restore(self, template: Any) -> Restored | None:
    """Returns the newest checkpoint that is whole, or none.

    Args:
      template: tree of arrays or shapes that the checkpoint must have.
    """
    for step in reversed(self.steps()):
      try:
        found = self.restore_step(step, template)
        self._kept.best = found.extra.get(BEST)
        return found
      except Exception as e:
        reason = one_line(e)
        done = 'left out' if self._read_only else self._set_aside(step)
        self._warn(
          f'checkpoint {step} is damaged ({reason}): {done}; trying the one '
          'before'
        )
    return None

  def restore_step(self, step: int, template: Any) -> Restored:
    """Returns one checkpoint, verified.

    Raises:
      Exception: it is incomplete, or differs from its digests or the template.
    """
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(shapes), extra=ocp.args.JsonRestore()
      ),
    )
    extra, stored = items['extra']['extra'], items['extra']['digests']
    found = _digests(items['state'], extra)
    if bad := [path for path in found if stored.get(path) != found[path]]:
      raise ValueError(f'the digest of {bad[0]} does not match')
    return Restored(step, items['state'], extra)

  def _set_aside(self, step: int) -> str:
    """Moves a checkpoint away, and says where to."""
    self._manager.close()
    done = self._move(str(step))
    self._begun.discard(step)
    self._manager = self._open()
    return done

  def _move(self, name: str) -> str:
    folder = self._directory.with_name(f'{self._directory.name}-damaged')
    folder.mkdir(exist_ok=True)
    target = unused(folder / name)
    shutil.move(self._directory / name, target)
    return f'moved to {target}'


def one_line(error: Exception) -> str:
  """Returns the first line of an error, or its type."""
  return (
    str(error).splitlines()[0][:200] if str(error) else type(error).__name__
  )


def _digests(tree: Any, extra: Mapping[str, Any]) -> dict[str, str]:
  """Returns the sha256 of every array of a tree by its path, and of extra."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  text = json.dumps(extra, sort_keys=True)
  return {'extra': hashlib.sha256(text.encode()).hexdigest()} | {
    jax.tree_util.keystr(path): hashlib.sha256(
      f'{leaf.dtype} {leaf.shape} '.encode()
      + np.ascontiguousarray(leaf).tobytes()
    ).hexdigest()
    for path, leaf in leaves
  }
