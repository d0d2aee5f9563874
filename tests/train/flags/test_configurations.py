"""Random configurations: their flags rebuild them, and numbers are traced."""

import dataclasses
import math
import random
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from absl import flags

from experiments.cli.parse import parse_flags
from model.architecture.architecture import Architecture
from model.core.field import (
  FieldError,
  Meta,
  Record,
  bind,
  field_types,
  is_section,
  meta_of,
  record_list,
  split,
  variant_list,
  variants,
)
from train.config.config import Config
from train.flags.absl_flags import given_flags
from train.flags.schema import flag_specs, non_default_flags, override, to_flags
from train.starts.base import Start
from train.tasks.base import Task

pytestmark = pytest.mark.usefixtures('quick_compilation')

TEXTS = {
  'freeze': ('embedding', '^blocks/', 'token$'),
  'path': ('a b.txt', 'x=y,z', 'ünï/code', '-1'),
  'init_from': ('runs/x:base', 'w:qk/1'),
  'of': ('attention', 'feedforward/down'),
  'which': ('^embedding/', '(?:^blocks/)', 'kind=matrix|embedding'),
  # Of a table.
  'train': ('a.tsv', 'folder/b.jsonl'),
  'validation': ('c.tsv', 'held out.jsonl'),
  'keys': ('text', 'source.en'),
  'suffixes': ('en,de', 'src,tgt'),
  'name': ('me/mine', 'multi30k'),
  'config': ('small', 'en-de'),
  'data_dir': ('folder', 'a b'),
}


def draw_value(
  draw: random.Random, name: str, hint: Any, meta: Meta, old: Any
) -> Any:
  """Returns a random value of a field, within its bounds."""
  if is_section(hint):
    return draw_record(draw, hint)
  if many := variant_list(hint):
    # Of longer lists hardly any keeps the rules.
    count = draw.randint(1, min(3, len(many)))
    chosen = draw.sample(list(many.values()), count)
    return tuple(draw_record(draw, cls) for cls in chosen)
  if choices := variants(hint):
    return draw_record(draw, draw.choice(list(choices.values())))
  if cls := record_list(hint):
    return tuple(draw_record(draw, cls) for _ in range(draw.randint(0, 2)))
  args = typing.get_args(hint)
  if typing.get_origin(hint) is typing.Literal:
    return draw.choice(args)
  if types.NoneType in args:
    if draw.random() < 0.4:
      return None
    (hint,) = [a for a in args if a is not types.NoneType]
    return draw_value(draw, name, hint, meta, old)
  if hint is bool:
    return draw.random() < 0.5
  if hint is str:
    return draw.choice(TEXTS[name])
  if draw.random() < 0.3 and old is not None:
    return old
  return draw_number(draw, hint, meta)


def draw_number(
  draw: random.Random, hint: type, meta: Meta, least: float | None = None
) -> int | float:
  """Returns a random number within bounds, above `least` if that is given."""
  low = meta.min if meta.min is not None else -10
  if hint is int:
    high = int(min(low + 64, math.inf if meta.max is None else meta.max))
    return draw.randint(max(int(low), int(least or low)), high)
  # Not where the bound is only there to stop what no program computes.
  most = math.inf if meta.max is None else meta.max
  low = max(low, -10)
  high = low + 10 ** draw.uniform(-9, 9) if most > 1e9 else most
  return draw.uniform(low if least is None else max(low, least), high)


def draw_record(draw: random.Random, cls: type[Record]) -> Any:
  """Returns a random record that keeps the rules within it."""
  for _ in range(2000):
    # Of records that change every field, hardly any keeps the rules.
    rate = draw.uniform(0.1, 1.0)
    values = {
      f.name: draw_value(
        draw, f.name, field_types(cls)[f.name], meta_of(cls, f.name), f.default
      )
      if draw.random() < rate
      else f.default
      for f in dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]  # a record is one
    }
    try:
      return cls(*values.values())
    except FieldError:
      continue
  raise AssertionError(f'no valid {cls.__name__} in 2000 draws')


def redraw_traced(draw: random.Random, record: Record) -> Any:
  """Returns the record with new traced numbers; zeros stay, they are static."""
  cls, changed = type(record), {}
  for name, hint in field_types(cls).items():
    value, meta = vars(record)[name], meta_of(cls, name)
    if isinstance(value, Record):
      changed[name] = redraw_traced(draw, value)
    elif isinstance(value, tuple):
      changed[name] = tuple(redraw_traced(draw, v) for v in value)
    elif meta.traced and value is not None and value != 0:
      inner = hint if isinstance(hint, type) else type(value)
      if inner is int:
        # More or as many: an average asks for as many evaluations, and with
        # few of them no larger number keeps its rule.
        most = 2**31 - 1 if meta.max is None else int(meta.max)
        more = draw.choice((0, draw.randint(1, 64)))
        changed[name] = min(value + more, most)
      else:
        changed[name] = draw_number(draw, inner, meta, 1e-12)
  return dataclasses.replace(record, **changed)  # pyright: ignore[reportArgumentType]  # fields by name


def redrawn(draw: random.Random, config: Config) -> Config:
  """Returns the trial with new traced numbers that keep its rules."""
  for _ in range(200):
    try:
      return redraw_traced(draw, config)
    except FieldError:
      continue  # too few steps for the average, say
  raise AssertionError('no valid numbers in 200 draws')


@pytest.fixture(scope='module')
def configs() -> list[Config]:
  """Random configurations, over all unions."""
  draw = random.Random(20240607)
  return [draw_record(draw, Config) for _ in range(150)]


def check_all(
  configs: Sequence[Config], check: Callable[[Config, Config], None]
) -> None:
  """Checks each configuration beside another one."""
  for mine, other in zip(configs, [*configs[1:], configs[0]], strict=True):
    check(mine, other)


def test_random_configurations_meet_every_variant(
  configs: list[Config],
) -> None:
  draw = random.Random(24)
  # Some variants suit another task: what predicts the next token is causal;
  # and few draws make all that a kernel needs: the seed is one that does.
  alone = [draw_record(draw, Architecture) for _ in range(400)]
  met: dict[str, set[str]] = {}
  for record in (*configs, *alone):
    for path, text in to_flags(record).items():
      met.setdefault(path, set()).update(text.split(','))
  # A start may be made for a few architectures; test_reference.py has each.
  met['start'].update(variants(Start))
  met.setdefault('start.rate', set())
  for cls in variants(Task).values():
    met['task'].add(cls.tag)
    met['objective'].update(term.tag for term in cls.objective)
    for _ in range(120):
      for path, text in to_flags(draw_record(draw, cls)).items():
        met.setdefault(f'task.{path}', set()).update(text.split(','))
  for path, leaf in flag_specs(Config).items():
    tags = {*variants(leaf.hint), *variant_list(leaf.hint)}
    assert tags <= met[path], f'--{path}: {tags - met[path]} never drawn'


def test_flags_rebuild_a_configuration(configs: list[Config]) -> None:
  def check(mine: Config, other: Config) -> None:
    text = to_flags(mine)
    assert override(Config(), text) == mine
    assert override(other, text) == mine
    for base in (Config(), other):
      fewest = non_default_flags(base, mine)
      assert override(base, fewest) == mine
      assert fewest.items() <= text.items()
    assert not non_default_flags(mine, mine)
    assert set(text) <= set(flag_specs(Config))

  check_all(configs, check)


def test_flags_survive_absl(configs: list[Config]) -> None:
  for config in configs[:40]:
    values = flags.FlagValues()
    argv = [f'--{k}={v}' for k, v in to_flags(config).items()]
    parse_flags(['launch.py', *argv], values)
    assert override(Config(), given_flags(Config, values)) == config


def test_split_and_bind_are_inverse(configs: list[Config]) -> None:
  def check(mine: Config, other: Config) -> None:
    static, values = split(mine)
    assert bind(static, values) == mine
    assert hash(bind(static, values)) == hash(mine)
    assert all(type(v) in (int, float) for v in values.values())
    assert (split(other)[0] == static) <= (
      split(other)[1].keys() == set(values)
    )

  check_all(configs, check)


def test_traced_numbers_do_not_change_the_static_half(
  configs: list[Config],
) -> None:
  draw = random.Random(1)
  changed = 0
  for mine in configs:
    other = redrawn(draw, mine)
    changed += other != mine
    assert split(other)[0] == split(mine)[0]
    assert hash(split(other)[0]) == hash(split(mine)[0])
    assert split(other)[1].keys() == split(mine)[1].keys()
    deeper = dataclasses.replace(
      mine,
      architecture=dataclasses.replace(
        mine.architecture, num_layers=mine.architecture.num_layers + 1
      ),
    )
    assert split(deeper)[0] != split(mine)[0]
  assert changed == len(configs)
