"""The targets that a trial is evaluated on: rows are comparable if equal.

A loss per token cannot be compared with that of another tokenizer, nor with a
loss over other tokens.  What a trial is trained on, such as smoothed labels,
does not matter here.
"""

import dataclasses
import hashlib
import json

import jax.numpy as jnp
import numpy as np

from model.attention.mask import hides_target, separate
from train.config.config import Config
from train.core.metric import (
  BITS_PER_BYTE,
  COMMON,
  OF_VECTORS,
  PERPLEXITY,
  VAL_LOSS,
  Metric,
)
from train.flags.schema import to_flags
from train.tasks.base import TOKEN_BYTES, Data, spaced_examples

# How to give a row the targets of the base, by the flag in which they differ.
_SAME = {'ends': '; --task.ends=true for the base gives both the same'}
# Metrics that can be computed from sums by position, so for a part of them.
BY_POSITION = (VAL_LOSS, BITS_PER_BYTE, PERPLEXITY)


@dataclasses.dataclass(frozen=True)
class Targets:
  """The targets on which a trial is evaluated.

  Attributes:
    task: tag of the task.
    flags: flags of the task that change the targets.
    data: digest of the data.
    tokenizer: value of its flag.
    vocabulary: digest of the texts of all tokens; of the labels if only these
      are predicted.
    has_bytes: whether each token stands for known bytes of the text.
    seq_len: tokens per example.
    examples: the evaluated part of the validation data, in words.
    positions: positions of an example that have a loss, or None for all.
    by_document: whether positions are counted from the start of each document.
    smoothing: label smoothing of the training loss.
  """

  task: str
  flags: tuple[tuple[str, str], ...]
  data: str
  tokenizer: str
  vocabulary: str
  has_bytes: bool
  seq_len: int
  examples: str
  positions: tuple[int, ...] | None
  by_document: bool
  smoothing: float


def targets_of(config: Config, data: Data) -> Targets:
  """Returns the targets on which a trial is evaluated."""
  task = config.task
  every = to_flags(task)
  flags = tuple(
    (name, value)
    for name, value in sorted(every.items())
    if name.partition('.')[0] not in {'tokenizer', *task.neutral}
  )
  available = task.evaluation_size(data.arrays, config.seq_len)
  ids_X = spaced_examples(available, config.num_evaluated(data.arrays), 1)
  vocabulary = data.vocabulary
  shown = [list(vocabulary.labels)]
  if task.predicts_tokens:
    shown += [vocabulary.kind, vocabulary.content()]
  digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
  return Targets(
    task=task.tag,
    flags=flags,
    data=data.digest,
    tokenizer=every.get('tokenizer', ''),
    vocabulary=digest,
    has_bytes=TOKEN_BYTES in data.arrays,
    seq_len=config.seq_len,
    examples=task.describe_evaluated(data.arrays, ids_X, config.seq_len),
    positions=_positions(config),
    by_document=config.sees_targets and separate(config.architecture.masks),
    smoothing=config.label_smoothing,
  )


def _positions(config: Config) -> tuple[int, ...] | None:
  """Returns the positions that have a loss, or None for all."""
  if not config.sees_targets:
    return None
  t_T = jnp.arange(config.seq_len)
  blind_T = np.asarray(hides_target(config.architecture.masks, t_T))
  return tuple(np.flatnonzero(blind_T).tolist())


def is_per_target(metric: Metric) -> bool:
  """Returns whether a metric is a mean over targets; BLEU, of texts, is not."""
  return metric in (*COMMON, *OF_VECTORS, *BY_POSITION)


def incomparable_reason(metric: Metric, base: Targets, row: Targets) -> str:
  """Returns why a metric of a row cannot be compared with the base, or ''.

  `shared_positions` compares the positions.
  """
  if row.task != base.task:
    return f'predicts other targets: --task={row.task}, the base {base.task}'
  mine, theirs = dict(row.flags), dict(base.flags)
  for name in sorted(mine.keys() | theirs.keys()):
    if mine.get(name) != theirs.get(name):
      return (
        f'is judged on other targets: --task.{name}={mine.get(name)}, the base '
        f'{theirs.get(name)}{_SAME.get(name, "")}'
      )
  if row.data != base.data:
    return 'is judged on other data than the base'
  if not is_per_target(metric):
    return ''
  return (
    _other_tokens(metric, base, row)
    or _other_examples(base, row)
    or _other_loss(metric, base, row)
  )


def _other_tokens(metric: Metric, base: Targets, row: Targets) -> str:
  """Returns why a metric per token is of other tokens, or ''."""
  if metric == BITS_PER_BYTE:
    for who, own in (('its', row), ("the base's", base)):
      if not own.has_bytes:
        return (
          f'has no bits per byte against the base: {who} '
          f'--task.tokenizer={own.tokenizer} loses some of the text'
        )
    return ''
  if row.vocabulary == base.vocabulary:
    return ''
  per_byte = row.has_bytes and base.has_bytes
  return (
    f'{metric.name} is per token, and its tokens differ from '
    f"the base's"
    + ('; --metric=bits_per_byte compares them' if per_byte else '')
  )


def _other_examples(base: Targets, row: Targets) -> str:
  """Returns why other parts of the data are evaluated, or ''."""
  if row.examples == base.examples:
    return ''
  return f'is judged on {row.examples}, the base on {base.examples}'


def _other_loss(metric: Metric, base: Targets, row: Targets) -> str:
  """Returns why the training losses compared are different ones, or ''."""
  if metric.name != 'train_loss' or row.smoothing == base.smoothing:
    return ''
  return (
    f'has another training loss: --label_smoothing={row.smoothing:g}, the '
    f'base {base.smoothing:g}'
  )


def shared_positions(base: Targets, row: Targets) -> tuple[int, ...] | None:
  """Returns the positions at which both have a loss.

  Returns:
    None if all positions can be compared; () if none can.
  """
  same = row.positions, row.by_document, row.seq_len
  if row.positions is None and base.positions is None:
    return None
  if same == (base.positions, base.by_document, base.seq_len):
    return None
  # With positions counted by document, those of an example do not correspond.
  if row.seq_len != base.seq_len or row.by_document or base.by_document:
    return ()
  every = range(row.seq_len)
  return tuple(
    t
    for t in (every if row.positions is None else row.positions)
    if base.positions is None or t in base.positions
  )
