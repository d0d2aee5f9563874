"""Open unions: a new variant is one class in one file, and its loop."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from helpers.source import ROOT, copy_project
from model.architecture.architecture import Architecture
from model.architecture.choices import ArchitectureFields
from model.attention.mask import Causal, MaskBase
from model.attention.outputs.base import OutputBase
from model.backends.kernels import Tokamax
from model.core.field import (
  FieldError,
  Variant,
  field_types,
  members,
  variant_list,
  variants,
)
from model.layers.norm import NormBase
from model.position.base import PositionBase

UNIONS = {
  name: found
  for name, hint in field_types(Architecture).items()
  if (found := variants(hint) or variant_list(hint))
}
MEMBERS = [cls for found in UNIONS.values() for cls in found.values()]


# What a variant says of itself. -----------------------------------------------


def test_no_variant_is_the_base_of_another() -> None:
  """It would hand on its traits, and be what `isinstance` takes for both."""
  for cls in MEMBERS:
    assert not [base for base in cls.__mro__[1:] if base in MEMBERS], cls


@pytest.mark.parametrize('cls', members(OutputBase).values())
def test_traits_of_outputs_are_the_hooks_that_they_override(
  cls: type[OutputBase],
) -> None:
  traits = cls.traits
  assert traits.keeps_first_values == (cls.values is not OutputBase.values)
  assert traits.decays == (cls.running is not OutputBase.running)
  assert (traits.maps > 1) == (cls.join is not OutputBase.join)
  assert traits.mixes_heads == (
    cls.mix_logits is not OutputBase.mix_logits
    or cls.mix_weights is not OutputBase.mix_weights
  )


@pytest.mark.parametrize('cls', members(PositionBase).values())
def test_traits_of_positions_are_the_hooks_that_they_override(
  cls: type[PositionBase],
) -> None:
  assert cls.traits.rotates == (cls.rotate is not PositionBase.rotate)
  assert cls.traits.biases == (cls.bias is not PositionBase.bias)


@pytest.mark.parametrize('cls', members(PositionBase).values())
def test_a_bias_is_of_distances_unless_its_traits_say_otherwise(
  cls: type[PositionBase],
) -> None:
  dims = Architecture(num_heads=4).dims(seq_len=8, vocab_size=8)
  position = cls().for_direction(sees_future=True)
  shapes = {name: p.shape for name, p in position.params(dims).items()}
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  t_T = jnp.arange(5)
  here, there = (position.bias(params, 4, t, t) for t in (t_T, t_T + 600))
  if here is None or there is None:
    assert not cls.traits.biases
    return
  moves = not np.allclose(here, there, atol=1e-6)
  assert moves == cls.traits.biases_by_place


def test_a_new_mask_needs_no_rule() -> None:
  """The rules read what it says of itself."""

  @dataclasses.dataclass(frozen=True)
  class Strict(MaskBase):
    """Only the past, without the position itself."""

    traits = Causal.traits._replace(hides_self=True, shape='other')

    def allowed(self, query: Any, key: Any) -> Any:
      return key.t < query.t

  arch = Architecture(mask=(Strict(),))
  assert not arch.stacks[-1].sees_future
  with pytest.raises(FieldError, match='must be causal'):
    dataclasses.replace(arch, backend=Tokamax())


# How members are found. -------------------------------------------------------


def package(folder: Path, files: Mapping[str, str]) -> None:
  """Writes a package with these files and one below, and imports its base."""
  head = 'from model.core.field import Variant\n\n\n'
  (folder / 'sub').mkdir(parents=True)
  for path in (folder, folder / 'sub'):
    (path / '__init__.py').write_text('')
  base = (
    'class Base(Variant):\n  pass\n\n\nclass First(Base, tag="first"):\n  ...'
  )
  (folder / 'colour.py').write_text(f'{head}\n\n{base}\n')
  for name, text in files.items():
    (folder / f'{name}.py').write_text(text)


def member(name: str, base: str = 'Base') -> str:
  return f'class {name}({base}, tag="{name.lower()}"):\n  pass\n\n\n'


@pytest.mark.parametrize('early', [(), ('zebra', 'sub.apple'), ('sub.apple',)])
def test_members_stand_in_one_order_whatever_was_imported(
  early: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  name = f'zoo{len(early)}'
  head = f'from {name}.colour import Base, First\n\n\n'
  files = {
    'zebra': head + member('Late') + member('Early') + member('Deep', 'Late'),
    'sub/apple': head + member('Below') + member('Other', 'First'),
  }
  package(tmp_path / name, files)
  monkeypatch.syspath_prepend(tmp_path)
  for module in early:
    importlib.import_module(f'{name}.{module}')
  base: type[Variant] = importlib.import_module(f'{name}.colour').Base

  # Of another package: no member.
  types.new_class('Elsewhere', (base,), {'tag': 'elsewhere'})
  assert list(members(base)) == [
    *('first', 'below', 'other', 'late', 'early', 'deep')
  ]


def test_two_members_with_one_tag_are_an_error(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  head = 'from zootwo.colour import Base\n\n\n'
  package(tmp_path / 'zootwo', {'copy': head + member('First')})
  monkeypatch.syspath_prepend(tmp_path)
  base = importlib.import_module('zootwo.colour').Base
  with pytest.raises(TypeError, match='have one tag, first'):
    members(base)


def test_what_a_notebook_defines_is_a_value_and_no_flag() -> None:
  @dataclasses.dataclass(frozen=True)
  class Mine(NormBase, tag='mine'):
    """Twice the input."""

    def apply(self, params: Any, x_BTD: Any) -> Any:
      return 2 * x_BTD

  assert Architecture(norm=Mine()).norm == Mine()
  assert 'mine' not in members(NormBase)
  with pytest.raises(FieldError, match='must be one of layernorm'):
    Architecture(norm=ArchitectureFields.score)  # pyright: ignore[reportArgumentType]  # it is refused


# One file in a copy of the project. -------------------------------------------


class Added(NamedTuple):
  """A variant in a file of its own, where that lies, and its flag."""

  folder: str
  field: str
  tag: str
  text: str


DYT = '''"""A norm without statistics."""

import dataclasses

import jax
import jax.numpy as jnp

from model.layers.norm import NormBase
from model.core.parameter import Dims, ParamRole, Param, PartParams, param


@dataclasses.dataclass(frozen=True)
class DyT(NormBase, tag='made_norm'):
  """g tanh(a x) + b (Zhu et al. 2025, arXiv:2503.10622); a starts from 1."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns g, a and b."""
    return {
      'scale': param('->D', ParamRole.SCALE, dims),
      'alpha': param('->', ParamRole.SCALE, dims),
      'bias': param('->D', ParamRole.BIAS, dims),
    }

  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    """Returns g tanh(a x) + b."""
    return params['scale'] * jnp.tanh(params['alpha'] * x_BTD) + params['bias']
'''
KERPLE = '''"""A bias by the logarithm of the distance."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.core.parameter import Dims, ParamRole, Param, PartParams, param
from model.position.base import PositionBase, PositionTraits


@dataclasses.dataclass(frozen=True)
class Kerple(PositionBase, tag='made_bias'):
  """Logits - r_1 log(1 + r_2 |t - s|) (Chi et al. 2022, arXiv:2205.09921)."""

  traits: ClassVar[PositionTraits] = PositionTraits(biases=True)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns both r of each head, from 1."""
    one = param('->N', ParamRole.SCALE, dims)
    return {'r_1': one, 'r_2': one}

  def bias(
    self, params: PartParams, num_heads: int, t_T: jax.Array, s_S: jax.Array
  ) -> jax.Array | None:
    """Returns -r_1 log(1 + r_2 |t - s|)."""
    del num_heads
    far_TS = jnp.abs(t_T[:, None] - s_S[None, :])
    r_1_N11, r_2_N11 = (params[n][:, None, None] for n in ('r_1', 'r_2'))
    return -r_1_N11 * jnp.log1p(r_2_N11 * far_TS)
'''
MANHATTAN = '''"""A score by another distance."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.core.parameter import PartParams
from model.attention.scores.base import ScoreBase, ScoreTraits


@dataclasses.dataclass(frozen=True)
class Manhattan(ScoreBase, tag='made_score'):
  """-|q - k|, the sum over the units of a head."""

  traits: ClassVar[ScoreTraits] = ScoreTraits(positive=False)

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns -|q - k|."""
    del params, x_BTD, t_T, s_S
    k_BSNH = jnp.repeat(k_BSKH, q_BTNH.shape[2] // k_BSKH.shape[2], axis=2)
    away_BTSNH = q_BTNH[:, :, None] - k_BSNH[:, None]
    return -jnp.moveaxis(jnp.abs(away_BTSNH).sum(-1), -1, 1)
'''
HEAD_GATE = '''"""A gate of one number a head."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.attention.outputs.base import OutputBase, OutputTraits, QueryContext
from model.core.parameter import Dims, ParamRole, Param, PartParams, param


@dataclasses.dataclass(frozen=True)
class HeadGate(OutputBase, tag='made_gate'):
  """out * sigmoid(x w_n), one gate a head (Qiu et al. 2025)."""

  traits: ClassVar[OutputTraits] = OutputTraits(stage=3)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns w of each head."""
    return {'kernel': param('D->N', ParamRole.MATRIX, dims)}

  def finish(
    self, params: PartParams, out_BTNH: jax.Array, own: QueryContext
  ) -> jax.Array:
    """Returns out * sigmoid(x w_n)."""
    gate_BTN = jnp.einsum('BTD,DN->BTN', own.x_BTD, params['kernel'])
    return out_BTNH * jax.nn.sigmoid(gate_BTN)[..., None]
'''
ADDED = (
  Added('model/layers', 'norm', 'made_norm', DYT),
  Added('model/position', 'position', 'made_bias', KERPLE),
  Added('model/attention/scores', 'score', 'made_score', MANHATTAN),
  Added('model/attention/outputs', 'output', 'made_gate', HEAD_GATE),
)
TINY = '--d_model=8 --num_layers=1 --num_heads=2 --seq_len=8 --batch_size=2'


def copied(folder: Path) -> None:
  """Makes a copy of the project that is committed."""
  copy_project(folder)
  git(folder, 'init', '-q')
  git(folder, 'add', '-A')
  git(folder, 'commit', '-qm', 'as it is')


def git(folder: Path, *words: str) -> str:
  who = ('-c', 'user.name=a', '-c', 'user.email=a@b')
  return ran(folder, 'git', *who, *words).stdout


def ran(
  folder: Path, *words: str, fails: bool = False
) -> subprocess.CompletedProcess[str]:
  """Returns what a command printed in a folder."""
  done = subprocess.run(
    words,
    cwd=folder,
    env={'ABLAX_CACHE': str(ROOT / '.cache')} | os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  assert bool(done.returncode) == fails, done.stdout + done.stderr
  return done


def test_one_file_is_in_the_help(tmp_path: Path) -> None:
  copied(tmp_path)
  for one in ADDED:
    (tmp_path / one.folder / f'{one.tag}.py').write_text(one.text)
    git(tmp_path, 'add', '-A')
    stat = git(tmp_path, 'diff', '--cached', '--stat')
    assert stat.count('|') == 1, stat
    git(tmp_path, 'commit', '-qm', one.tag)
  shown = ran(tmp_path, sys.executable, 'launch.py', '--help').stdout
  listed = [line.strip().partition(':')[0] for line in shown.splitlines()]
  assert {one.tag for one in ADDED} <= {*listed}


@pytest.mark.slow
@pytest.mark.parametrize('one', ADDED, ids=lambda one: one.tag)
def test_one_file_trains(one: Added, tmp_path: Path) -> None:
  copied(tmp_path)
  (tmp_path / one.folder / f'{one.tag}.py').write_text(one.text)
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be\n' * 40)
  ran(
    tmp_path,
    *(sys.executable, 'launch.py', '--experiment=train', *TINY.split()),
    *('--steps=2', '--seeds=1', f'--task.path={text}', '--workdir=out'),
    f'--{one.field}={one.tag}',
  )
  (line,) = (tmp_path / 'out/trials.jsonl').read_text().splitlines()
  assert json.loads(line)['metrics']['val_loss'] < 10


LOOP = '''

def made_norm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Zhu et al. 2025: g tanh(a x) + b."""
  out_D = np.zeros(len(x_D))
  for j, x in enumerate(x_D):
    out_D[j] = params['scale'][j] * math.tanh(params['alpha'] * x)
    out_D[j] += params['bias'][j]
  return out_D


NORMS['made_norm'] = made_norm
'''


@pytest.mark.slow
def test_one_file_needs_a_loop_and_one_edit_gives_it(tmp_path: Path) -> None:
  copied(tmp_path)
  (tmp_path / 'model/layers/made_norm.py').write_text(DYT)
  tests = 'tests/conformance/test_reference.py'
  test = (sys.executable, '-m', 'pytest', '-q', tests)
  alone = ran(tmp_path, *test, '--collect-only', fails=True).stdout
  assert '--norm=made_norm has no loop' in alone
  reference = tmp_path / 'tests/spec/reference/norms.py'
  reference.write_text(reference.read_text() + LOOP)
  assert '1 passed' in ran(tmp_path, *test, '-k', 'norm-made_norm').stdout
  git(tmp_path, 'add', '-A')
  stat = git(tmp_path, 'diff', '--cached', '--stat')
  assert stat.count('|') == 2, stat
