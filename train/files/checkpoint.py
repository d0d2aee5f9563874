"""Checkpoints: the only place that knows Orbax.

Orbax writes asynchronously and atomically, but does not notice a flipped bit.
So each checkpoint carries a digest of every array; one that does not match, or
cannot be restored, is moved aside and the one before it is used.  The best
checkpoint is named in the JSON that is saved with each, which has a digest too;
Orbax is given no metric, because it would trust a damaged one.
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

from train.files.durable import unused_path
from train.files.strict import DamagedFile
from train.files.version import (
  CHECKPOINT,
  FIRST,
  UnreadableFormat,
  check_format,
)

BEST = 'best_step'  # key of the JSON of a checkpoint: step of the best one

# Problems are raised or warned of in one line here; the tracebacks that these
# packages log from background threads would bury it.
for _name in ('absl', 'asyncio'):
  logging.getLogger(_name).setLevel(logging.CRITICAL)


def _without_closed_loops(before: Callable[[Any], object]) -> Any:
  """Returns a hook that ignores the errors of threads after a failed save."""

  def hook(problem: Any) -> None:
    if str(problem.exc_value) != 'Event loop is closed':
      before(problem)

  return hook


sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


class RestoredCheckpoint(NamedTuple):
  """A checkpoint that was read and verified: its step, arrays and JSON."""

  step: int
  tree: Any
  extra: dict[str, Any]


@dataclasses.dataclass
class _PreservationPolicy(checkpoint_managers.PreservationPolicy):
  """Keeps the last checkpoints, the best, and multiples of `every` steps."""

  last: int
  every: int | None
  best: int | None = None

  def should_preserve(
    self,
    checkpoints: Sequence[Any],
    *,
    context: checkpoint_managers.PreservationContext,
  ) -> Sequence[bool]:
    """Returns for each checkpoint whether to keep it."""
    del context
    first = len(checkpoints) - self.last
    return [
      n >= first or found.step == self.best or self._is_due(found.step)
      for n, found in enumerate(checkpoints)
    ]

  def _is_due(self, step: int) -> bool:
    return self.every is not None and step % self.every == 0


class Checkpoints:
  """Writes and reads the checkpoints of one trial.

  Args:
    directory: folder of the checkpoints; created if absent.
    keep: how many of the last checkpoints to keep, besides the best.
    warn: called with one line for each checkpoint that is moved aside.
    read_only: change nothing, because another process may be writing there.
    keep_every: also keep checkpoints whose step is a multiple of this.

  Raises:
    DamagedFile: the folder cannot be read.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    keep: int,
    warn: Callable[[str], None],
    read_only: bool = False,
    keep_every: int | None = None,
  ):
    self._directory = directory.absolute()
    self._warn, self._read_only = warn, read_only
    self._policy = _PreservationPolicy(keep, keep_every)
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=self._policy,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=not read_only,
      enable_async_checkpointing=True,
    )
    self._manager = self._open()
    self._started = set(self.steps())

  def _open(self) -> ocp.CheckpointManager:
    """Returns Orbax's manager."""
    try:
      return ocp.CheckpointManager(self._directory, options=self._options)
    except OSError:
      raise  # the disk failed: the checkpoints themselves may be whole
    except Exception as e:
      raise DamagedFile(
        f'{self._directory}: cannot be read ({first_line(e)})',
        'move it away and repeat the command that trained it',
      ) from e

  def save(
    self,
    step: int,
    tree: Any,
    extra: Mapping[str, Any],
  ) -> None:
    """Starts to save a checkpoint in the background.

    Args:
      step: the step of the checkpoint; does nothing if there is one of this
        step, or if it is being written.
      tree: numpy arrays, which must not be changed afterwards.
      extra: JSON values; its `best_step` is the step of the checkpoint to keep
        as the best one, which may be this one.
    """
    if step in self._started:
      return
    self._started.add(step)
    self._policy.best = extra.get(BEST)
    version = CHECKPOINT.newest
    digests = _digests(tree) | {'extra': _extra_digest(extra, version)}
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(tree),
      extra=ocp.args.JsonSave(
        {'format': version, 'digests': digests, 'extra': dict(extra)}
      ),
    )
    self._manager.save(step, args=items, force=True)

  def wait(self) -> None:
    """Waits until saves are complete, and raises their errors."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    """Waits until saves are complete, and releases the threads."""
    self._manager.close()

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints, ascending."""
    # Orbax removes old checkpoints during a save: listed ones could vanish.
    self._manager.wait_until_finished()
    return sorted(self._manager.all_steps(read=True))

  def restore(self, template: Any) -> RestoredCheckpoint | None:
    """Returns the newest intact checkpoint, or None if there is none.

    Damaged ones are moved aside, or only skipped if `read_only`.

    Args:
      template: tree with the shapes and dtypes that the checkpoint must have.

    Raises:
      OtherFormat: a checkpoint has a format that this version cannot read.
    """
    for step in reversed(self.steps()):
      try:
        found = self.restore_step(step, template)
        self._policy.best = found.extra.get(BEST)
        return found
      except UnreadableFormat:
        raise  # not damaged, so it is never moved
      except Exception as e:
        reason = first_line(e)
        done = 'left out' if self._read_only else self._set_aside(step)
        self._warn(
          f'checkpoint {step} is damaged ({reason}): {done}; trying the one '
          'before'
        )
    return None

  def restore_step(self, step: int, template: Any) -> RestoredCheckpoint:
    """Returns the checkpoint of one step after checking its digests.

    Raises:
      OtherFormat: it has a format that this version cannot read.
      Exception: it is incomplete, or differs from its digests or the template.
    """
    saved = self._item(step, 'extra', ocp.args.JsonRestore())
    extra, stored = saved['extra'], saved['digests']
    version = saved.get('format', FIRST)
    if stored.get('extra') != _extra_digest(extra, version):
      raise ValueError('the digest of extra does not match')
    check_format(version, self._directory / str(step), CHECKPOINT)
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    state = self._item(step, 'state', ocp.args.StandardRestore(shapes))
    found = _digests(state)
    if bad := [path for path in found if stored.get(path) != found[path]]:
      raise ValueError(f'the digest of {bad[0]} does not match')
    return RestoredCheckpoint(step, state, extra)

  def _item(self, step: int, name: str, how: ocp.args.CheckpointArgs) -> Any:
    """Reads one part of a checkpoint: `extra` or `state`."""
    args = ocp.args.Composite(**{name: how})
    return self._manager.restore(step, args=args)[name]

  def _set_aside(self, step: int) -> str:
    """Moves a damaged checkpoint away; returns a phrase that says where to."""
    self._manager.close()
    done = self._move(str(step))
    self._started.discard(step)
    self._manager = self._open()
    return done

  def _move(self, name: str) -> str:
    folder = self._directory.with_name(f'{self._directory.name}-damaged')
    folder.mkdir(exist_ok=True)
    target = unused_path(folder / name)
    shutil.move(self._directory / name, target)
    return f'moved to {target}'


def first_line(error: Exception) -> str:
  """Returns the first line of an error, or its type."""
  return (
    str(error).splitlines()[0][:200] if str(error) else type(error).__name__
  )


def _extra_digest(extra: Mapping[str, Any], version: object) -> str:
  """Returns the sha256 of the JSON and the format number of a checkpoint.

  This must stay the same in all later formats: the digest is verified before
  the format number is trusted, since that may be damaged too.
  """
  whole = extra if version == FIRST else [version, extra]
  text = json.dumps(whole, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _digests(tree: Any) -> dict[str, str]:
  """Returns the sha256 of each array of a tree, by its path in the tree."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path): hashlib.sha256(
      f'{leaf.dtype} {leaf.shape} '.encode()
      + np.ascontiguousarray(leaf).tobytes()
    ).hexdigest()
    for path, leaf in leaves
  }
