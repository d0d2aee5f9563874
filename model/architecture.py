"""The architecture as one value: every choice a field, every field a flag."""

import dataclasses
from collections.abc import Iterator

from model.backend import problem as backend_problem
from model.choices import Choices
from model.field import FieldError, unparse
from model.mask import problem as mask_problem
from model.norm import NoNorm, PostNorm
from model.parameter import Dims
from model.qk_norm import NoQkNorm
from model.scale import Rsqrt
from model.score import Dot


@dataclasses.dataclass(frozen=True)
class Architecture(Choices):
  """Architecture: a transformer of blocks (Vaswani et al. 2017)."""

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.head_dim is None and self.d_model % self.num_heads:
      near = [n for n in range(1, 65) if self.d_model % n == 0]
      fix = min(near, key=lambda n: abs(n - self.num_heads))
      yield FieldError(
        'num_heads',
        self.num_heads,
        f'must divide --d_model={self.d_model}: try --num_heads={fix}, or set '
        '--head_dim',
      )
    if self.num_heads % (self.num_kv_heads or self.num_heads):
      near = [k for k in range(1, 65) if self.num_heads % k == 0]
      fix = min(near, key=lambda k: abs(k - (self.num_kv_heads or 1)))
      yield FieldError(
        'num_kv_heads',
        self.num_kv_heads,
        f'must divide --num_heads={self.num_heads}: try --num_kv_heads={fix}',
      )
    dims = self.dims(seq_len=1, vocab_size=1)
    yield from self.projections.problems_with(
      dims, self.head_dim, self.score.reads
    )
    if problem := mask_problem(self.mask):
      yield problem
    if problem := self.model.problem(self.masks):
      yield problem
    yield from self._score_problems(dims)
    yield from self._output_problems(dims)
    yield from self._position_problems(dims)
    yield from self._idle_problems(dims)
    for parts in self.every_parts:
      if problem := backend_problem(self.backend, parts):
        yield problem

  def _score_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between the score and what is done to q and k."""
    if problem := self.score.problem(dims):
      yield problem
    width = self.projections.widths(dims).query // self.parts.maps
    if problem := self.qk_norm.problem(width):
      yield problem
    if self.normalizer.rectifies and not self.score.positive:
      yield FieldError(
        'normalizer',
        self.normalizer,
        'gives no key any weight, because no logit is above 0 with '
        f'--score={self.score.tag}: try --normalizer=softmax',
      )
    if self.normalizer.similarity:
      yield from self._similarity_problems()
    if all(self.score.reads):
      return
    changing: list[tuple[str, object, bool]] = [
      ('position', self.position, self.position.rotates),
      ('qk_norm', self.qk_norm, type(self.qk_norm) is not NoQkNorm),
      ('output', self.output, self.parts.maps > 1),
    ]
    for flag, value, changes in changing:
      if changes:
        yield FieldError(
          flag,
          value,
          f'changes queries and keys, not both of which '
          f'--score={self.score.tag} reads: try --score=dot',
        )

  def _similarity_problems(self) -> Iterator[FieldError]:
    """Yields what makes of logits another thing than positive products."""
    by = f'--normalizer={self.normalizer.tag}'
    if type(self.scale) is not Rsqrt:
      yield FieldError(
        'scale', self.scale, f'cancels out of {by}, which is a ratio: drop it'
      )
    mixed = any(output.mixes_heads for output in self.output)
    for flag, value, changes in (
      ('score', self.score, type(self.score) is not Dot),
      ('logit_cap', self.logit_cap, self.logit_cap is not None),
      ('position', self.position, self.position.biases),
      ('output', self.output, mixed),
    ):
      if changes:
        yield FieldError(
          flag,
          value,
          f'changes logits, which with {by} are products of positive features: '
          'drop it, or try --normalizer=softmax',
        )

  def _position_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between positions and what they rotate."""
    width, rotary, _ = self.projections.widths(dims)
    if self.position.rotates and not rotary:
      yield FieldError(
        'projections.rope_dim',
        rotary,
        f'leaves --position={self.position.tag} nothing to rotate: make it '
        'larger',
      )
    if self.parts.maps > 1 and width != rotary:
      yield FieldError(
        'output',
        self.output,
        f'halves queries, of which --projections={self.projections.tag} '
        'rotates a part: try --projections=qkv',
      )
    maps = self.parts.maps
    if self.position.rotates and maps > 1 and dims.head_dim % (2 * maps):
      yield FieldError(
        'head_dim',
        dims.head_dim,
        f'must be a multiple of {2 * maps}, because --position='
        f'{self.position.tag} pairs the units of each map of a head, and '
        f'--output={unparse(self.output)} has {maps}',
      )
    rotated = dataclasses.replace(dims, head_dim=rotary // maps)
    for stack in self.stacks:
      position = self.position.directed(stack.sees_future)
      if problem := position.problem(rotated):
        yield problem

  def _output_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between outputs and the rest."""
    tags = [output.tag for output in self.output]
    if len(set(tags)) < len(tags):
      yield FieldError('output', self.output, 'must name each output once')
    if 'plain' in tags and len(tags) > 1:
      yield FieldError(
        'output', self.output, 'plain has no effect beside others: drop it'
      )
    for output in self.output:
      if problem := output.problem(dims):
        yield problem
      if output.fades and not any(m.hides_future for m in self.masks):
        yield FieldError(
          'output',
          self.output,
          f'{output.tag} is a decay along the past: add causal to --mask',
        )
      if output.fades and self.encoder is not None:
        yield FieldError(
          'output',
          self.output,
          f'{output.tag} is a decay along the past, and an encoder sees both '
          'sides: try --model=decoder',
        )
      if output.fades and not self.normalizer.exponential:
        yield FieldError(
          'output',
          self.output,
          f'{output.tag} adds the logarithm of a decay, and logits are no '
          f'logarithms with --normalizer={self.normalizer.tag}: try softmax',
        )

  def _idle_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what has no effect with all the rest."""
    if isinstance(self.norm, NoNorm) and isinstance(self.residual, PostNorm):
      yield FieldError(
        'residual',
        self.residual,
        'has no effect with --norm=none: try --residual=pre',
      )
    if self.model.has_classes and not self.tie_embeddings:
      yield FieldError(
        'tie_embeddings',
        False,
        f'has no effect with --model={self.model.tag}, which predicts no '
        'tokens: try --tie_embeddings=true',
      )
    without = dataclasses.replace(dims, use_bias=False)
    if self.use_bias and self.parameter_table(dims) == self.parameter_table(
      without
    ):
      yield FieldError(
        'use_bias',
        True,
        'has no effect, because nothing that is chosen has a bias: try '
        '--use_bias=false',
      )
