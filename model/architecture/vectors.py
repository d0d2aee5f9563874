"""Rules for tasks whose inputs or targets are vectors in place of tokens.

An architecture alone does not say whether it reads tokens or vectors: the task
does, through `Dims.num_inputs` and `Dims.num_outputs`.
"""

from collections.abc import Iterator

from model.architecture.choices import ArchitectureFields
from model.core.field import FieldError, Variant
from model.core.parameter import Dims


def problems(arch: ArchitectureFields, dims: Dims) -> Iterator[FieldError]:
  """Yields an error for each choice that does not suit the task."""
  for flag, part, usual, width, what in (
    (
      'read_in',
      arch.read_in,
      ArchitectureFields.read_in,
      dims.num_inputs,
      'gives',
    ),
    (
      'read_out',
      arch.read_out,
      ArchitectureFields.read_out,
      dims.num_outputs,
      'predicts',
    ),
  ):
    problem = part.problem(dims) if width else _idle(flag, part, usual, what)
    if problem:
      yield problem
  if dims.num_inputs and arch.scale_embeddings:
    yield FieldError(
      'scale_embeddings',
      True,
      'has no effect on vectors, which the task gives in place of tokens: try '
      '--scale_embeddings=false',
    )
  yield from _tie_problems(arch, dims)
  yield from _family_problems(arch, dims)


def _idle(
  flag: str, part: Variant, usual: Variant, what: str
) -> FieldError | None:
  """Returns an error if a read-in or read-out is set but never used."""
  if part == usual:
    return None
  return FieldError(
    flag,
    part,
    f'has no effect with a task that {what} tokens, not vectors: try '
    f'--{flag}={usual.tag}',
  )


def _tie_problems(arch: ArchitectureFields, dims: Dims) -> Iterator[FieldError]:
  """Yields an error if --tie_embeddings does not suit the task."""
  if dims.num_outputs and not arch.tie_embeddings:
    yield FieldError(
      'tie_embeddings',
      False,
      'has no effect with a task that predicts vectors, which need no '
      'unembedding: try --tie_embeddings=true',
    )
  predicts_tokens = not dims.num_outputs and not arch.model.traits.has_classes
  if dims.num_inputs and predicts_tokens and arch.tie_embeddings:
    yield FieldError(
      'tie_embeddings',
      True,
      'leaves no unembedding: with a task that gives vectors there is no '
      'embedding to tie it to: try --tie_embeddings=false',
    )


def _family_problems(
  arch: ArchitectureFields, dims: Dims
) -> Iterator[FieldError]:
  """Yields an error if the family cannot read or predict vectors."""
  traits = arch.model.traits
  if dims.num_inputs and traits.has_source:
    yield FieldError(
      'model',
      arch.model,
      'embeds a source of tokens, but the task gives vectors: try '
      '--model=decoder',
    )
  if dims.num_outputs and traits.has_classes:
    yield FieldError(
      'model',
      arch.model,
      'predicts one class of a text, but the task asks for vectors: try '
      '--model=encoder',
    )
