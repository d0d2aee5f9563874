"""Collects the parameters that the choices of an architecture list."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from model.architecture.family import ENCODER, Stack
from model.attention.outputs.base import OutputBase
from model.attention.parts import part_of
from model.attention.scores.base import ScoreBase
from model.core.parameter import Dims, Param, ParamRole, PartParams, param

if TYPE_CHECKING:
  from model.architecture.choices import ArchitectureFields


def block_tables(
  arch: 'ArchitectureFields', dims: Dims, stack: Stack
) -> dict[str, dict[str, Param]]:
  """Returns `{part: {name: parameter}}` of one block of a stack."""
  tables: dict[str, dict[str, Param]] = {}
  if stack.has_self_attention:
    tables |= _attention_tables(arch, dims, arch.output, arch.score)
    tables |= _residual_tables(arch, 'attention', dims)
  if stack.has_cross_attention:
    crossing = arch.cross_parts
    cross = _attention_tables(arch, dims, crossing.output, crossing.score)
    tables |= {crossed(part): table for part, table in cross.items()}
    tables |= _residual_tables(arch, 'cross', dims)
  if not arch.feedforward.traits.is_absent:
    tables['feedforward'] = arch.feedforward.params(dims)
    tables |= _residual_tables(arch, 'feedforward', dims)
  return tables


def _residual_tables(
  arch: 'ArchitectureFields', place: str, dims: Dims
) -> dict[str, dict[str, Param]]:
  """Returns `{part: {name: parameter}}` of one residual connection."""
  return {
    f'norm_{place}': arch.norm.params(dims),
    f'residual_{place}': arch.residual.params(dims),
  }


def _attention_tables(
  arch: 'ArchitectureFields',
  dims: Dims,
  outputs: Sequence[OutputBase],
  score: ScoreBase,
) -> dict[str, dict[str, Param]]:
  """Returns `{part: {name: parameter}}` of one attention sub-layer."""
  # For a score, H is the width of a query in one map.
  width = arch.projections.widths(dims).query // arch.parts.maps
  score_dims = dataclasses.replace(dims, head_dim=width)
  return {
    'attention': arch.projections.params(dims, score.traits.reads),
    'qk_norm': arch.qk_norm.params(score_dims),
    'score': score.params(score_dims),
    'scale': arch.scale.params(score_dims),
    'normalizer': arch.normalizer.params(dims),
  } | {part_of(output): output.params(dims) for output in outputs}


def outer_tables(
  arch: 'ArchitectureFields', dims: Dims
) -> dict[str, dict[str, Param]]:
  """Returns `{part: {name: parameter}}` of all that is outside of blocks."""
  tables = {
    **_input_tables(arch, dims),
    'position': _position_table(arch, arch.stacks[-1], dims),
  }
  if arch.residual.traits.final_norm:
    tables['norm_final'] = arch.norm.params(dims)
  if arch.encoder is not None:
    tables[f'position_{ENCODER}'] = _position_table(arch, arch.encoder, dims)
    if arch.residual.traits.final_norm:
      tables[f'norm_{ENCODER}'] = arch.norm.params(dims)
  if arch.model.traits.has_classes:
    tables['classes'] = arch.model.head(dims)
  elif dims.num_outputs:
    tables['read_out'] = arch.read_out.params(dims)
  elif not arch.tie_embeddings:
    tables['unembedding'] = {'kernel': param('D->V', ParamRole.MATRIX, dims)}
  return tables


def _input_tables(
  arch: 'ArchitectureFields', dims: Dims
) -> dict[str, dict[str, Param]]:
  """Returns `{part: {name: parameter}}` of the embedding or the read-in."""
  if dims.num_inputs:
    return {'read_in': arch.read_in.params(dims)}
  return {'embedding': {'token': param('V->D', ParamRole.EMBEDDING, dims)}}


def _position_table(
  arch: 'ArchitectureFields', stack: Stack, dims: Dims
) -> dict[str, Param]:
  """Returns the parameters of positions; none if the stack cannot use them."""
  if arch.position.traits.biases and not stack.has_self_attention:
    return {}
  return arch.position.params(dims)


def crossed(part: str) -> str:
  """Returns the name under which a block holds a part of cross-attention."""
  return f'cross_{part}'


def of_cross(tables: Mapping[str, PartParams]) -> dict[str, PartParams]:
  """Returns the parts of cross-attention in a block, without the prefix."""
  first = crossed('')
  return {
    part.removeprefix(first): table
    for part, table in tables.items()
    if part.startswith(first)
  }
