"""Rules for which choices of an architecture do not go together, and why.

Rules read sizes and what a variant declares (`traits`, `problem`), but never
ask which variant it is.  A new variant declares its traits and needs no new
rule.  The limits of each backend are in `model/backends/`.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from model.architecture.choices import ArchitectureFields
from model.attention.mask import MaskBase
from model.attention.mask_list import distance
from model.backends.base import problem as backend_problem
from model.core.field import FieldError, members, unparse
from model.core.parameter import Dims


def problems(arch: ArchitectureFields) -> Iterator[FieldError]:
  """Yields an error for each pair of choices that do not go together."""
  yield from _size_problems(arch)
  dims = arch.dims(seq_len=1, vocab_size=1)
  yield from arch.projections.problems_with(
    dims, arch.head_dim, arch.score.traits.reads
  )
  yield from _mask_problems(arch.mask)
  yield from _pattern_problems(arch)
  if problem := arch.model.problem(arch.masks):
    yield problem
  yield from _score_problems(arch, dims)
  yield from _output_problems(arch, dims)
  yield from _position_problems(arch, dims)
  yield from _counting_problems(arch)
  yield from _idle_problems(arch, dims)
  # With a pattern, the backend of each layer has been checked above.
  for parts in [] if arch.pattern else arch.every_parts:
    if problem := backend_problem(arch.backend, parts):
      yield problem


def _size_problems(arch: ArchitectureFields) -> Iterator[FieldError]:
  """Yields errors of sizes that must divide each other."""
  if arch.head_dim is None and arch.d_model % arch.num_heads:
    near = [n for n in range(1, 65) if arch.d_model % n == 0]
    fix = min(near, key=lambda n: abs(n - arch.num_heads))
    yield FieldError(
      'num_heads',
      arch.num_heads,
      f'must divide --d_model={arch.d_model}: try --num_heads={fix}, or set '
      '--head_dim',
    )
  if arch.num_heads % (arch.num_kv_heads or arch.num_heads):
    near = [k for k in range(1, 65) if arch.num_heads % k == 0]
    fix = min(near, key=lambda k: abs(k - (arch.num_kv_heads or 1)))
    yield FieldError(
      'num_kv_heads',
      arch.num_kv_heads,
      f'must divide --num_heads={arch.num_heads}: try --num_kv_heads={fix}',
    )


def _pattern_problems(arch: ArchitectureFields) -> Iterator[FieldError]:
  """Yields errors of --pattern and of its layers."""
  if len(arch.pattern) == 1:
    yield FieldError(
      'pattern',
      arch.pattern,
      'has one layer, so all layers are equal: set its flags directly',
    )
  shortest = min(stack.num_layers for stack in arch.stacks)
  if len(arch.pattern) > shortest:
    yield FieldError(
      'pattern',
      arch.pattern,
      f'has {len(arch.pattern)} layers, and a stack has {shortest}: name '
      'fewer, or make --num_layers larger',
    )
  common = arch.masks
  dims = arch.dims(seq_len=1, vocab_size=1)
  for own in arch.pattern:
    try:
      layer = dataclasses.replace(arch, pattern=(), **own.chosen)
    except FieldError as e:
      rule = f'in {own}, --{e.path}={unparse(e.value)}: {e.rule}'
      yield FieldError('pattern', arch.pattern, rule)
      continue
    for mask in layer.masks:
      if mask not in common and mask.traits.changes_targets:
        yield FieldError(
          'pattern',
          arch.pattern,
          f'{mask.tag} decides what can be predicted, so --mask of every layer '
          'must have it, or none',
        )
    if problem := _layer_position_problem(arch, layer, dims):
      yield problem


def _layer_position_problem(
  arch: ArchitectureFields, layer: ArchitectureFields, dims: Dims
) -> FieldError | None:
  """Returns an error if a layer cannot have its own --position."""
  if layer.position == arch.position:
    return None
  for position in (arch.position, layer.position):
    if position.traits.embeds:
      return FieldError(
        'pattern',
        arch.pattern,
        f'--position={position.tag} is added to the input of the first layer, '
        'not in each layer: name one that acts in attention, such as rope',
      )
  if layer.position.params(dims):
    return FieldError(
      'pattern',
      arch.pattern,
      f'--position={layer.position.tag} has parameters that all layers share: '
      'set it with --position, and another in the layers without it',
    )
  return None


def _mask_problems(masks: Sequence[MaskBase]) -> Iterator[FieldError]:
  """Yields errors of masks that have no effect beside each other."""
  tags = [mask.tag for mask in masks]
  if len(set(tags)) < len(tags):
    yield FieldError('mask', tuple(masks), 'must name each mask once')
  nearest = distance(masks)
  alone = [mask.tag for mask in masks if mask.traits.hides_self]
  if alone and nearest is not None and nearest[0] == 1:
    yield FieldError(
      f'mask.{nearest[1]}',
      1,
      f'hides all that {alone[0]} leaves: make it larger',
    )
  for tag in members(MaskBase):
    for mask in (mask for mask in masks if mask.tag == tag):
      others = [m.tag for m in masks if m != mask and mask.is_idle_beside(m)]
      if others:
        yield FieldError(
          'mask',
          tuple(masks),
          f'{tag} has no effect beside {others[0]}: drop one',
        )


def _score_problems(
  arch: ArchitectureFields, dims: Dims
) -> Iterator[FieldError]:
  """Yields errors of the score with other changes to queries and keys."""
  if problem := arch.score.problem(dims):
    yield problem
  width = arch.projections.widths(dims).query // arch.parts.maps
  if problem := arch.qk_norm.problem(width):
    yield problem
  if arch.normalizer.traits.rectifies and not arch.score.traits.positive:
    yield FieldError(
      'normalizer',
      arch.normalizer,
      'gives no key any weight, because no logit is above 0 with '
      f'--score={arch.score.tag}: try --normalizer=softmax',
    )
  if arch.normalizer.traits.similarity:
    yield from _similarity_problems(arch)
  if all(arch.score.traits.reads):
    return
  changing: list[tuple[str, object, bool]] = [
    ('position', arch.position, arch.position.traits.rotates),
    ('qk_norm', arch.qk_norm, arch.qk_norm.traits.changes),
    ('output', arch.output, arch.parts.maps > 1),
  ]
  for flag, value, changes in changing:
    if changes:
      yield FieldError(
        flag,
        value,
        f'changes queries and keys, but --score={arch.score.tag} does not read '
        'both: try --score=dot',
      )


def _similarity_problems(arch: ArchitectureFields) -> Iterator[FieldError]:
  """Yields errors of choices that change the products a similarity needs."""
  by = f'--normalizer={arch.normalizer.tag}'
  # A scale that equals the default counts as not set.
  if arch.scale != ArchitectureFields.scale:
    yield FieldError(
      'scale', arch.scale, f'cancels out of {by}, which is a ratio: drop it'
    )
  mixed = any(output.traits.mixes_heads for output in arch.output)
  for flag, value, changes in (
    ('score', arch.score, not arch.score.traits.is_product),
    ('logit_cap', arch.logit_cap, arch.logit_cap is not None),
    ('position', arch.position, arch.position.traits.biases),
    ('output', arch.output, mixed),
  ):
    if changes:
      yield FieldError(
        flag,
        value,
        f'changes logits, which with {by} are products of positive features: '
        'drop it, or try --normalizer=softmax',
      )


def _position_problems(
  arch: ArchitectureFields, dims: Dims
) -> Iterator[FieldError]:
  """Yields errors of positions with the widths of queries and keys."""
  width, rotary, _ = arch.projections.widths(dims)
  if arch.position.traits.rotates and not rotary:
    yield FieldError(
      'projections.rope_dim',
      rotary,
      f'leaves --position={arch.position.tag} nothing to rotate: make it '
      'larger',
    )
  if arch.parts.maps > 1 and width != rotary:
    yield FieldError(
      'output',
      arch.output,
      f'halves queries, but --projections={arch.projections.tag} rotates only '
      'a part of them: try --projections=qkv',
    )
  maps = arch.parts.maps
  if arch.position.traits.rotates and maps > 1 and dims.head_dim % (2 * maps):
    yield FieldError(
      'head_dim',
      dims.head_dim,
      f'must be a multiple of {2 * maps}, because --position='
      f'{arch.position.tag} pairs the units of each map of a head, and '
      f'--output={unparse(arch.output)} has {maps}',
    )
  rotated = dataclasses.replace(dims, head_dim=rotary // maps)
  for stack in arch.stacks:
    position = arch.position.for_direction(stack.sees_future)
    if problem := position.problem(rotated):
      yield problem


def _output_problems(
  arch: ArchitectureFields, dims: Dims
) -> Iterator[FieldError]:
  """Yields errors of outputs among each other and with other choices."""
  tags = [output.tag for output in arch.output]
  if len(set(tags)) < len(tags):
    yield FieldError('output', arch.output, 'must name each output once')
  idle = [output.tag for output in arch.output if output.traits.is_nothing]
  if idle and len(tags) > 1:
    yield FieldError(
      'output', arch.output, f'{idle[0]} has no effect beside others: drop it'
    )
  for output in arch.output:
    if problem := output.problem(dims):
      yield problem
    if output.traits.decays and not any(
      m.traits.hides_future for m in arch.masks
    ):
      yield FieldError(
        'output',
        arch.output,
        f'{output.tag} is a decay along the past: add causal to --mask',
      )
    if output.traits.decays and arch.encoder is not None:
      yield FieldError(
        'output',
        arch.output,
        f'{output.tag} is a decay along the past, but an encoder sees both '
        'sides: try --model=decoder',
      )
    if output.traits.decays and not arch.normalizer.traits.exponential:
      yield FieldError(
        'output',
        arch.output,
        f'{output.tag} adds the logarithm of a decay, but logits are not '
        f'logarithms with --normalizer={arch.normalizer.tag}: try softmax',
      )


def _counting_problems(arch: ArchitectureFields) -> Iterator[FieldError]:
  """Yields an error if a feed-forward mixes documents that masks separate."""
  counting = arch.feedforward.order_dependence
  apart = [mask.tag for mask in arch.masks if mask.traits.separates]
  if counting is not None and apart:
    yield FieldError(
      f'feedforward.{counting.path}',
      counting.value,
      f'{counting.rule}, of other documents too, which --mask={apart[0]} '
      'separates: drop it',
    )


def _idle_problems(
  arch: ArchitectureFields, dims: Dims
) -> Iterator[FieldError]:
  """Yields errors of choices that have no effect."""
  usual = ArchitectureFields.residual
  places = arch.residual.traits.places_norm and arch.residual != usual
  if arch.norm.traits.is_identity and places:
    yield FieldError(
      'residual',
      arch.residual,
      f'has no effect with --norm={arch.norm.tag}: try --residual={usual.tag}',
    )
  if arch.model.traits.has_classes and not arch.tie_embeddings:
    yield FieldError(
      'tie_embeddings',
      False,
      f'has no effect with --model={arch.model.tag}, which predicts no '
      'tokens: try --tie_embeddings=true',
    )
  without = dataclasses.replace(dims, use_bias=False)
  if arch.use_bias and arch.parameter_table(dims) == arch.parameter_table(
    without
  ):
    yield FieldError(
      'use_bias',
      True,
      'has no effect, because no chosen part has a bias: try --use_bias=false',
    )
