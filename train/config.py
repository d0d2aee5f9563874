"""One trial as one value: what is trained, on what, and how."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator

import numpy as np

import train.tasks  # noqa: F401  (its files are the members of Task)
from model.architecture import Architecture
from model.field import FieldError, Record, field, variants
from model.limits import BATCH, COUNT, SHARE, WIDTH
from model.mask import (
  ByModel,
  Padding,
  Prefix,
  Segments,
  in_sight,
  separate,
)
from model.parameter import Dims
from train.optimizer import Optimization
from train.schema import to_flags
from train.task import Arrays, Data, Task, spread
from train.tasks.text import Text
from train.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Config(Record):
  """Trial: what its numbers are a function of; each field can be ablated."""

  task: Task = field(Text(), 'What is learned:')
  seq_len: int = field(64, 'Context length in tokens.', min=1, max=WIDTH)
  batch_size: int = field(16, 'Sequences a step.', min=1, max=BATCH)
  microbatches: int = field(
    1, 'Parts that a batch is computed in, to save memory.', min=1, max=BATCH
  )
  steps: int = field(600, 'Updates.', min=1, max=COUNT, traced=True)
  label_smoothing: float = field(
    0.0, 'Weight of the uniform target.', min=0.0, max=SHARE, traced=True
  )
  seed: int = field(
    0, 'Of the first trial of each row.', min=0, max=COUNT, traced=True
  )
  eval_every: int = field(200, 'Steps between evaluations.', min=1, max=COUNT)
  eval_examples: int | None = field(
    None, 'Validation examples, spread evenly; none is all.', min=1, max=COUNT
  )
  init_from: str | None = field(
    None, 'WORKDIR:TRIAL whose parameters are the initial values.'
  )
  architecture: Architecture = field(Architecture(), 'The model.')
  optimization: Optimization = field(Optimization(), 'The update.')

  def __post_init__(self) -> None:
    super().__post_init__()
    # What packs documents is a fact of the mask, and of the data.
    task = self.task.resolved(separate(self.architecture.masks))
    object.__setattr__(self, 'task', task)

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.batch_size % self.microbatches:
      yield FieldError(
        'microbatches',
        self.microbatches,
        f'must divide --batch_size={self.batch_size}',
      )
    if self.label_smoothing == 1:
      yield FieldError(
        'label_smoothing',
        self.label_smoothing,
        'leaves the target no weight, so that nothing is learned: make it '
        'smaller',
      )
    yield from self._mask_problems()
    every = [parts.mask for parts in self.architecture.every_parts]
    most = max(in_sight(masks, self.seq_len) for masks in every)
    if problem := self.architecture.normalizer.problem(*most):
      yield problem
    if self.init_from is not None and ':' not in self.init_from:
      yield FieldError('init_from', self.init_from, 'must be WORKDIR:TRIAL')
    average = self.optimization.average
    if problem := average.problem(self.steps, self.eval_every):
      yield problem
    dims = self.dims(vocab_size=1)
    self.optimization.frozen(self.architecture.parameter_table(dims))

  def warnings(self) -> list[str]:
    """Returns what may be meant, and rather is not, one line each."""
    arch = self.architecture
    table = arch.parameter_table(self.dims(vocab_size=1))
    doubts = [*self.optimization.warnings(table, self.steps)]
    for flag, factor in (('scale', arch.scale), ('qk_norm', arch.qk_norm)):
      if problem := factor.silent():
        doubts.append(problem.under(f'{flag}.'))
    return [str(doubt) for doubt in doubts]

  def _mask_problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between the mask, the length and the task."""
    model, task = self.architecture.model, self.task
    if not _learns(task, model.tag):
      tasks = [
        tag
        for tag, cls in variants(Task).items()
        if issubclass(cls, Task) and _learns(cls, model.tag)
      ]
      yield FieldError(
        'model',
        model,
        f'cannot learn --task={task.tag}: try --model={task.families[0].tag}, '
        f'or --task={"|".join(tasks)}',
      )
    named, masks = self.architecture.mask, self.architecture.masks
    if task.predicts_next and not any(mask.hides_targets for mask in masks):
      yield FieldError(
        'mask',
        named,
        'lets a model that predicts the next token see it: '
        + ('try --mask=causal' if ByModel() in named else 'add causal'),
      )
    for mask in masks:
      if problem := mask.problem(self.seq_len):
        yield problem
      given = task.gives_segments or self._sees_padding
      if mask.reads_segments and mask in named and not given:
        yield FieldError(
          'mask',
          masks,
          f'{mask.tag} needs segments, which --task={task.tag} does not '
          'give: drop it',
        )
    yield from self._padding_problems()

  def _padding_problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between the mask and the padding of the task."""
    named, masks = self.architecture.mask, self.architecture.masks
    if any(isinstance(m, Padding) for m in named) and not self._sees_padding:
      yield FieldError(
        'mask',
        masks,
        f'padding has no effect with --task={self.task.tag}, which pads '
        'nothing that --mask hides: drop it',
      )
    # It comes last in a row: what hides the future hides it from all others.
    hidden = any(
      isinstance(m, Padding | Segments) or m.hides_future for m in masks
    )
    if self._sees_padding and not hidden:
      yield FieldError(
        'mask',
        masks,
        f'shows the padding of --task={self.task.tag}: add padding',
      )

  @property
  def sees_targets(self) -> bool:
    """Returns whether some positions see their target, and predict nothing."""
    hidden = any(mask.hides_future for mask in self.architecture.masks)
    return self.task.predicts_next and not hidden

  @property
  def _sees_padding(self) -> bool:
    """Returns whether the last stack is given padding."""
    return self.task.gives_padding and not self.architecture.model.has_source

  @property
  def compiled(self) -> 'Config':
    """Returns the trial without what only the host reads.

    Trials that differ in nothing else share a program.
    """
    reads = self.optimization.average.reads_evaluations
    every = {} if reads else {'eval_every': 1}
    return dataclasses.replace(self, init_from=None, **every)

  def dims(self, vocab_size: int, num_classes: int = 0) -> Dims:
    """Returns the sizes of the axes."""
    return self.architecture.dims(self.seq_len, vocab_size, num_classes)

  def evaluated(self, arrays: Arrays) -> int:
    """Returns how many validation examples are evaluated on."""
    available = self.task.evaluation_size(arrays, self.seq_len)
    return min(available, self.eval_examples or available)

  def misfit(self, data: Data) -> str | None:
    """Returns why the data do not serve this trial, if they do not."""
    if problem := self.task.problem(data, self.seq_len):
      return problem
    wanted = self.evaluated(data.arrays)
    available = self.task.evaluation_size(data.arrays, self.seq_len)
    ids_X = spread(available, wanted, 1)
    if self.task.counted(data.arrays, ids_X, self.seq_len):
      return self._prefix_misfit(data)
    return (
      f'--eval_examples={wanted}: nothing in these examples counts in the loss '
      f'at --seq_len={self.seq_len}: make one larger'
    )

  def _prefix_misfit(self, data: Data) -> str | None:
    """Returns why no document goes beyond its prefix, if none does."""
    masks = self.architecture.masks
    prefixes = [mask.prefix for mask in masks if isinstance(mask, Prefix)]
    if not prefixes or not separate(masks):
      return None
    for part in ('train', 'validation'):
      starts_X = data.arrays.get(f'{part}_starts')
      if starts_X is None:
        continue
      longest = np.diff([*starts_X, data.arrays[part].shape[0]]).max()
      if longest <= prefixes[0]:
        return (
          f'--mask.prefix={prefixes[0]}: no document of the {part} part has '
          f'more than {longest} tokens, so that each sees its targets and '
          'nothing counts in the loss: make it smaller'
        )
    return None

  def sizes(self, vocabulary: Vocabulary) -> Dims:
    """Returns the sizes of the axes with these symbols and classes."""
    return self.dims(vocabulary.size, len(vocabulary.labels))


def _learns(task: Task | type[Task], model: str) -> bool:
  """Returns whether a model of this name can learn a task."""
  return model in [family.tag for family in task.families]


def identity(config: Config, inputs: str) -> str:
  """Returns the id of a trial: a digest of its flags, seed and data.

  Args:
    config: the trial.
    inputs: digest of the data and of the initial parameters, if any.
  """
  canonical = json.dumps([to_flags(config), inputs], sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:12]
