"""One trial as one value: what is trained, on what, and how."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator

import train.tasks  # noqa: F401  (its files are the members of Task)
from model.architecture import Architecture
from model.field import FieldError, Record, field
from model.mask import Padding
from model.parameter import Dims
from train.optimizer import Optimization
from train.schema import to_flags
from train.task import Task
from train.tasks.text import Text


@dataclasses.dataclass(frozen=True)
class Config(Record):
  """Trial: what its numbers are a function of; each field can be ablated."""

  task: Task = field(Text(), 'What is learned:')
  seq_len: int = field(64, 'Context length in tokens.', min=1)
  batch_size: int = field(16, 'Sequences a step.', min=1)
  microbatches: int = field(
    1, 'Parts that a batch is computed in, to save memory.', min=1
  )
  steps: int = field(600, 'Updates.', min=1, max=2**31 - 1, traced=True)
  label_smoothing: float = field(
    0.0, 'Weight of the uniform target.', min=0.0, max=1.0, traced=True
  )
  seed: int = field(
    0, 'Of the first trial of each row.', min=0, max=2**31 - 1, traced=True
  )
  eval_every: int = field(200, 'Steps between evaluations.', min=1)
  eval_examples: int | None = field(
    None, 'Validation examples, spread evenly; none is all.', min=1
  )
  init_from: str | None = field(
    None, 'WORKDIR:TRIAL whose parameters are the initial values.'
  )
  architecture: Architecture = field(Architecture(), 'The model.')
  optimization: Optimization = field(Optimization(), 'The update.')

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.batch_size % self.microbatches:
      yield FieldError(
        'microbatches',
        self.microbatches,
        f'must divide --batch_size={self.batch_size}',
      )
    yield from self._mask_problems()
    if problem := self.architecture.normalizer.problem(self.seq_len):
      yield problem
    if self.init_from is not None and ':' not in self.init_from:
      yield FieldError('init_from', self.init_from, 'must be WORKDIR:TRIAL')
    average = self.optimization.average
    if problem := average.problem(self.steps, self.eval_every):
      yield problem
    dims = self.dims(vocab_size=1)
    self.optimization.frozen(self.architecture.parameter_table(dims))

  def _mask_problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between the mask, the length and the task."""
    masks = self.architecture.mask
    if not any(mask.hides_targets for mask in masks):
      yield FieldError(
        'mask',
        masks,
        'lets a model that predicts the next token see it: add causal',
      )
    for mask in masks:
      if problem := mask.problem(self.seq_len):
        yield problem
      if mask.reads_segments and not self.task.gives_segments:
        yield FieldError(
          'mask',
          masks,
          f'{mask.tag} needs segments, which --task={self.task.tag} does not '
          'give: drop it',
        )
      elif isinstance(mask, Padding) and not self.task.gives_padding:
        yield FieldError(
          'mask',
          masks,
          f'padding has no effect with --task={self.task.tag}, which pads '
          'nothing: drop it',
        )

  def dims(self, vocab_size: int) -> Dims:
    """Returns the sizes of the axes."""
    return self.architecture.dims(self.seq_len, vocab_size)


def identity(config: Config, inputs: str) -> str:
  """Returns the id of a trial: a digest of its flags, seed and data.

  Args:
    config: the trial.
    inputs: digest of the data and of the initial parameters, if any.
  """
  canonical = json.dumps([to_flags(config), inputs], sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:12]
