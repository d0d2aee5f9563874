"""The configuration of a trial: the model, its data and its training."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model.architecture import vectors
from model.architecture.architecture import Architecture
from model.attention.mask import separate
from model.attention.mask_list import (
  max_visible_keys,
  only_padding,
  prefix_length,
  shows_padding,
)
from model.core.field import FieldError, Record, field, members, unparse
from model.core.limits import BATCH, COUNT, SHARE, WIDTH
from model.core.parameter import Dims
from train.core.metric import Metric
from train.flags.schema import non_default_flags
from train.measurements.base import Measurement, NoMeasurement
from train.optim.objective import CrossEntropy, Objective
from train.optim.objective import objective_problem as objective_problem
from train.optim.optimizer import Optimization
from train.starts.base import RandomStart, Start
from train.tasks.base import Arrays, Data, Task, spaced_examples
from train.tasks.texts.text import Text
from train.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Config(Record):
  """Trial: all that its results depend on; each field can be ablated."""

  task: Task = field(Text(), 'What is learned:')
  seq_len: int = field(64, 'Context length in tokens.', min=1, max=WIDTH)
  batch_size: int = field(16, 'Sequences per step.', min=1, max=BATCH)
  microbatches: int = field(
    1,
    'Parts of a batch that are computed in turn, to save memory.',
    min=1,
    max=BATCH,
  )
  steps: int = field(
    600, 'Updates; 0 trains nothing.', min=0, max=COUNT, traced=True
  )
  objective: tuple[Objective, ...] = field(
    (CrossEntropy(),), 'What is minimised, a sum of terms:'
  )
  label_smoothing: float = field(
    0.0, 'Weight of the uniform target.', min=0.0, max=SHARE, traced=True
  )
  shuffle_targets: bool = field(
    False,
    'A control: targets in training are those of other examples of the batch, '
    'so that only their frequencies can be learned; evaluation is unchanged.',
  )
  seed: int = field(
    0, 'Seed of the first trial of each row.', min=0, max=COUNT, traced=True
  )
  eval_every: int = field(200, 'Steps between evaluations.', min=1, max=COUNT)
  eval_examples: int | None = field(
    None, 'Validation examples, spread evenly; `none` is all.', min=1, max=COUNT
  )
  init_from: str | None = field(
    None, 'WORKDIR:TRIAL whose parameters are the initial values here.'
  )
  start: Start = field(RandomStart(), 'Initial values, drawn or set by hand:')
  measure: tuple[Measurement, ...] = field(
    (NoMeasurement(),),
    'What else to measure, at the start and at each evaluation, a list:',
  )
  measure_examples: int = field(
    16,
    'Validation examples for --measure, spread evenly.',
    min=1,
    max=BATCH,
  )
  architecture: Architecture = field(Architecture(), 'The model.')
  optimization: Optimization = field(Optimization(), 'The update.')

  def __post_init__(self) -> None:
    super().__post_init__()
    # The mask decides whether documents are packed; the task must know it.
    task = self.task.resolved(separate(self.architecture.masks))
    object.__setattr__(self, 'task', task)

  def following(self, new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the objective to set when the task changes to one of `new`.

    It is empty if the objective here was chosen by the user, or serves the new
    task as well.
    """
    usual, other = self.task.objective, new.get('task', self.task).objective
    if other == usual or self.objective != usual:
      return {}
    return {'objective': other}

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of fields that do not go together."""
    if self.batch_size % self.microbatches:
      yield FieldError(
        'microbatches',
        self.microbatches,
        f'must divide --batch_size={self.batch_size}',
      )
    if self.shuffle_targets and self.batch_size < 2:
      yield FieldError(
        'shuffle_targets',
        True,
        f'takes targets of other examples, of which --batch_size='
        f'{self.batch_size} has none: make it at least 2',
      )
    if self.label_smoothing == 1:
      yield FieldError(
        'label_smoothing',
        self.label_smoothing,
        'leaves the target no weight, so that nothing is learned: make it '
        'smaller',
      )
    if problem := objective_problem(self.objective, self.task.objective):
      yield problem
    smooths = any(term.smooths for term in self.objective)
    if self.label_smoothing != 0 and not smooths:
      yield FieldError(
        'label_smoothing',
        self.label_smoothing,
        f'has no effect with --objective={unparse(self.objective)}: drop it',
      )
    if self.microbatches > 1:
      for layer in self.architecture.layers:
        if problem := layer.feedforward.batch_problem():
          yield problem.under('feedforward.')
    yield from self._mask_problems()
    yield from vectors.problems(self.architecture, self.dims(vocab_size=1))
    for layer in self.architecture.layers:
      every = [parts.mask for parts in layer.every_parts]
      most = max(max_visible_keys(masks, self.seq_len) for masks in every)
      if problem := layer.normalizer.problem(*most):
        yield problem
    yield from self._start_problems()
    yield from self._measure_problems()
    average = self.optimization.average
    if problem := average.problem(self.steps, self.eval_every):
      yield problem
    dims = self.dims(vocab_size=1)
    table = self.architecture.parameter_table(dims)
    self.optimization.check(table, self.steps)

  def warnings(self) -> list[str]:
    """Returns a line for each setting that is allowed but likely a mistake."""
    arch = self.architecture
    table = arch.parameter_table(self.dims(vocab_size=1))
    doubts = []
    if self.steps:  # else nothing moves
      doubts += self.optimization.warnings(table, self.steps)
    for layer in arch.layers:
      for flag, factor in (('scale', layer.scale), ('qk_norm', layer.qk_norm)):
        if problem := factor.silent():
          doubts.append(problem.under(f'{flag}.'))
    return [str(doubt) for doubt in doubts]

  def _start_problems(self) -> Iterator[FieldError]:
    """Yields errors of the initial values."""
    if self.init_from is not None:
      if ':' not in self.init_from:
        yield FieldError('init_from', self.init_from, 'must be WORKDIR:TRIAL')
      if not isinstance(self.start, RandomStart):
        yield FieldError(
          'start',
          self.start,
          f'has no effect beside --init_from={self.init_from}: drop one',
        )
    dims = self.dims(vocab_size=1)
    if problem := self.start.problem(self.architecture, dims):
      yield problem

  def _measure_problems(self) -> Iterator[FieldError]:
    """Yields errors of the list of measurements."""
    tags = [measurement.tag for measurement in self.measure]
    if len(set(tags)) < len(tags):
      yield FieldError('measure', self.measure, 'must name each once')
    if NoMeasurement.tag in tags and len(tags) > 1:
      yield FieldError(
        'measure', self.measure, 'none has no effect beside others: drop it'
      )
    usual = Config.measure_examples
    if not self.measurements and self.measure_examples != usual:
      yield FieldError(
        'measure_examples',
        self.measure_examples,
        'has no effect without --measure: drop it',
      )
    for measurement in self.measurements:
      if problem := measurement.problem(self.architecture):
        yield problem

  @property
  def measurements(self) -> tuple[Measurement, ...]:
    """Returns the measurements that are not `none`."""
    return tuple(m for m in self.measure if not isinstance(m, NoMeasurement))

  @property
  def measured(self) -> dict[str, Metric]:
    """Returns the metrics by which the trial can be compared, by name."""
    own = (figure for m in self.measurements for figure in m.figures)
    return self.task.measured() | {figure.name: figure for figure in own}

  def _mask_problems(self) -> Iterator[FieldError]:
    """Yields errors between the mask, the context length and the task."""
    model, task = self.architecture.model, self.task
    if not _learns(task, model.tag):
      tasks = [t for t, cls in members(Task).items() if _learns(cls, model.tag)]
      yield FieldError(
        'model',
        model,
        f'cannot learn --task={task.tag}: try --model={task.families[0].tag}, '
        f'or --task={"|".join(tasks)}',
      )
    named, masks = self.architecture.mask, self.architecture.masks
    by_model = any(mask.traits.by_model for mask in named)
    hidden = any(mask.traits.hides_targets for mask in masks)
    if task.predicts_next and not hidden:
      yield FieldError(
        'mask',
        named,
        'lets a model that predicts the next token see it: '
        + ('try --mask=causal' if by_model else 'add causal'),
      )
    for mask in self.architecture.every_mask:
      if problem := mask.problem(self.seq_len):
        yield problem
      has_segments = task.gives_segments or self._sees_padding
      reads = mask.traits.reads_segments and mask in named
      if reads and not has_segments:
        yield FieldError(
          'mask',
          masks,
          f'{mask.tag} needs segments, which --task={task.tag} does not '
          'give: drop it',
        )
    yield from self._padding_problems()

  def _padding_problems(self) -> Iterator[FieldError]:
    """Yields errors between the mask and the padding of the task."""
    named, masks = self.architecture.mask, self.architecture.masks
    idle = [mask.tag for mask in named if only_padding(mask)]
    if idle and not self._sees_padding:
      yield FieldError(
        'mask',
        masks,
        f'{idle[0]} has no effect with --task={self.task.tag}, which pads '
        'nothing that --mask hides: drop it',
      )
    if self._sees_padding and shows_padding(masks):
      yield FieldError(
        'mask',
        masks,
        f'shows the padding of --task={self.task.tag}: add padding',
      )

  @property
  def sees_targets(self) -> bool:
    """Returns whether some positions can see their target.

    So it is where a prefix is seen as a whole; these positions have no loss.
    """
    hidden = any(mask.traits.hides_future for mask in self.architecture.masks)
    return self.task.predicts_next and not hidden

  @property
  def _sees_padding(self) -> bool:
    """Returns whether the input of the last stack has padding."""
    family = self.architecture.model.traits
    return self.task.gives_padding and not family.has_source

  @property
  def device_config(self) -> 'Config':
    """Returns the configuration with defaults for all that only the host reads.

    Trials that differ only in these fields share a program.
    """
    reads = self.optimization.average.reads_evaluations
    every = {} if reads else {'eval_every': 1}
    return dataclasses.replace(
      self,
      init_from=Config.init_from,
      start=Config.start,
      measure=Config.measure,
      measure_examples=Config.measure_examples,
      **every,
    )

  def dims(self, vocab_size: int, num_classes: int = 0) -> Dims:
    """Returns the sizes of the axes."""
    return self.architecture.dims(
      self.seq_len,
      vocab_size,
      num_classes,
      self.task.num_inputs,
      self.task.num_outputs,
    )

  def num_evaluated(self, arrays: Arrays) -> int:
    """Returns the number of validation examples to evaluate on."""
    available = self.task.evaluation_size(arrays, self.seq_len)
    return min(available, self.eval_examples or available)

  def data_problem(self, data: Data) -> str | None:
    """Returns why the data do not fit this trial, or None if they do."""
    if problem := self.task.problem(data, self.seq_len):
      return problem
    wanted = self.num_evaluated(data.arrays)
    available = self.task.evaluation_size(data.arrays, self.seq_len)
    ids_X = spaced_examples(available, wanted, 1)
    if self.task.has_targets(data.arrays, ids_X, self.seq_len):
      return self._prefix_misfit(data)
    return (
      f'--eval_examples={wanted}: nothing in these examples counts in the loss '
      f'at --seq_len={self.seq_len}: make one larger'
    )

  def _prefix_misfit(self, data: Data) -> str | None:
    """Returns an error if no document is longer than --mask.prefix."""
    masks = self.architecture.masks
    if not (prefix := prefix_length(masks)) or not separate(masks):
      return None
    for part in ('train', 'validation'):
      starts_X = data.arrays.get(f'{part}_starts')
      if starts_X is None:
        continue
      longest = np.diff([*starts_X, data.arrays[part].shape[0]]).max()
      if longest <= prefix:
        return (
          f'--mask.prefix={prefix}: no document of the {part} part has '
          f'more than {longest} tokens, so that each sees its targets and '
          'nothing counts in the loss: make it smaller'
        )
    return None

  def sizes(self, vocabulary: Vocabulary) -> Dims:
    """Returns the sizes of the axes for a vocabulary and its labels."""
    return self.dims(vocabulary.size, len(vocabulary.labels))


def _learns(task: Task | type[Task], model: str) -> bool:
  """Returns whether a model family, given by its tag, can learn a task."""
  return model in [family.tag for family in task.families]


def trial_id(config: Config, inputs: str) -> str:
  """Returns the id of a trial: a digest of its flags, seed and data.

  Flags at their defaults are left out, so that a new flag changes no id.  The
  record of the trial has all flags, with which later defaults are compared.

  Args:
    config: the trial.
    inputs: digest of the data, and of the initial parameters if there are any.
  """
  flags = non_default_flags(Config(), config) | {'seed': str(config.seed)}
  canonical = json.dumps([flags, inputs], sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:12]
