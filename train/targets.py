"""What the figures of a trial are of: rows are compared where that is equal.

A loss per token of one tokenizer says nothing of a loss per token of another,
nor does that of tokens which one row predicts and another does not.  What a
trial is trained on, such as smoothed labels, is no part of it.
"""

import dataclasses
import hashlib
import json

import jax.numpy as jnp
import numpy as np

from model.mask import blind, separate
from train.config import Config
from train.figure import (
  BITS_PER_BYTE,
  COMMON,
  PERPLEXITY,
  VAL_LOSS,
  Figure,
)
from train.schema import to_flags
from train.task import TOKEN_BYTES, Data, spread

# What gives a row the targets of the base, by the flag in which they differ.
_SAME = {'ends': '; --task.ends=true for the base gives both the same'}
# What is known at each position, and so for a part of them.
BY_POSITION = (VAL_LOSS, BITS_PER_BYTE, PERPLEXITY)


@dataclasses.dataclass(frozen=True)
class Targets:
  """What a trial is judged on.

  Attributes:
    task: its tag.
    flags: of the task, those that have a say in what is judged.
    data: digest.
    tokenizer: as its flag names it.
    vocabulary: digest of what tokens stand for; of labels, where these alone
      are predicted.
    has_bytes: whether each token stands for bytes of the text.
    seq_len: tokens of an example.
    examples: which part of the validation data is judged.
    positions: of an example, those that predict; none is all.
    by_document: positions are counted in each document of an example.
    smoothing: of the labels in the training loss.
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


def targets(config: Config, data: Data) -> Targets:
  """Returns what a trial with this configuration is judged on."""
  task = config.task
  every = to_flags(task)
  flags = tuple(
    (name, value)
    for name, value in sorted(every.items())
    if name.partition('.')[0] not in {'tokenizer', *task.neutral}
  )
  available = task.evaluation_size(data.arrays, config.seq_len)
  ids_X = spread(available, config.evaluated(data.arrays), 1)
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
    examples=task.judged_part(data.arrays, ids_X, config.seq_len),
    positions=_positions(config),
    by_document=config.sees_targets and separate(config.architecture.masks),
    smoothing=config.label_smoothing,
  )


def _positions(config: Config) -> tuple[int, ...] | None:
  """Returns the positions that predict; none is all of them."""
  if not config.sees_targets:
    return None
  t_T = jnp.arange(config.seq_len)
  blind_T = np.asarray(blind(config.architecture.masks, t_T))
  return tuple(np.flatnonzero(blind_T).tolist())


def of_targets(metric: Figure) -> bool:
  """Returns whether a figure is of single targets, not of texts, as BLEU is."""
  return metric in (*COMMON, *BY_POSITION)


def obstacle(metric: Figure, base: Targets, row: Targets) -> str:
  """Returns why a figure of a row says nothing against the base's, or ''.

  Whether both predict at the same positions is asked of `shared`.
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
  if not of_targets(metric):
    return ''
  return (
    _other_tokens(metric, base, row)
    or _other_examples(base, row)
    or _other_loss(metric, base, row)
  )


def _other_tokens(metric: Figure, base: Targets, row: Targets) -> str:
  """Returns why figures per token are of other tokens, if they are."""
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
    f'{metric.name} is per token, and the tokens are others than the '
    f"base's" + ('; --metric=bits_per_byte compares them' if per_byte else '')
  )


def _other_examples(base: Targets, row: Targets) -> str:
  """Returns why other parts of the data are judged, if they are."""
  if row.examples == base.examples:
    return ''
  return f'is judged on {row.examples}, the base on {base.examples}'


def _other_loss(metric: Figure, base: Targets, row: Targets) -> str:
  """Returns why the training loss is another, if it is what is compared."""
  if metric.name != 'train_loss' or row.smoothing == base.smoothing:
    return ''
  return (
    f'has another training loss: --label_smoothing={row.smoothing:g}, the '
    f'base {base.smoothing:g}'
  )


def shared(base: Targets, row: Targets) -> tuple[int, ...] | None:
  """Returns the positions at which both predict; none where these are equal."""
  same = row.positions, row.by_document, row.seq_len
  if row.positions is None and base.positions is None:
    return None
  if same == (base.positions, base.by_document, base.seq_len):
    return None
  # Where in an example documents begin is another matter in each.
  if row.seq_len != base.seq_len or row.by_document or base.by_document:
    return ()
  every = range(row.seq_len)
  return tuple(
    t
    for t in (every if row.positions is None else row.positions)
    if base.positions is None or t in base.positions
  )
