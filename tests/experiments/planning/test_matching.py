"""Rows of equal size: every one matched, or marked and never silently off."""

import functools
import itertools
from collections.abc import Iterator
from typing import Literal

import pytest

from experiments.planning.cost import cost
from experiments.planning.matching import match
from model.architecture.architecture import Architecture
from model.core.field import FieldError, field_types, variant_list, variants
from train.config.config import Config
from train.flags.schema import changes, override, to_flags

VOCAB = 65
BASES = {
  'default': {},
  'rope': {'position': 'rope', 'num_layers': '3', 'use_bias': 'true'},
  'sizes': {'head_dim': '24', 'feedforward.width': '200'},
  'wide': {'d_model': '96', 'num_heads': '6', 'tie_embeddings': 'false'},
}
NUMBERS = {
  'num_heads': ('1', '2', '3', '8'),
  'num_layers': ('1', '4', '6'),
  'd_model': ('24', '48', '128'),
  'head_dim': ('8', '32'),
  'feedforward.width': ('1', '1000'),
  'seq_len': ('16', '128'),
}
By = Literal['params', 'flops']


@functools.cache
def base_of(name: str) -> Config:
  """Returns a base to match."""
  return override(Config(), BASES[name])


def figure(config: Config, by: By, vocab: int = VOCAB) -> int:
  """Returns what is to be equal."""
  found = cost(config, vocab)
  return found.parameters if by == 'params' else found.flops_per_token


def rows(base: Config) -> Iterator[Config]:
  """Yields every valid row that changes one variant or one size of a base."""
  choices = {
    name: tuple(variants(hint) or variant_list(hint))
    for name, hint in field_types(Architecture).items()
  }
  for field, values in itertools.chain(choices.items(), NUMBERS.items()):
    for value in values:
      try:
        yield override(base, {field: value})
      except FieldError:
        continue


@pytest.mark.slow
@pytest.mark.parametrize('by', ['params', 'flops'])
@pytest.mark.parametrize('name', BASES)
def test_every_row_is_matched_or_marked(name: str, by: By) -> None:
  base, seen = base_of(name), 0
  for config in rows(base):
    row = changes(base, config)
    found = match(base, config, VOCAB, by)
    ratio = figure(found.config, by) / figure(base, by)
    assert found.ratio == ratio, row
    assert found.exact == (abs(ratio - 1) <= 0.005), row
    assert ('not within' in found.note) == (not found.exact), row
    # Only widths move, and not those that the row is about.
    moved = changes(config, found.config)
    assert moved.keys() <= {'feedforward.width', 'd_model'}, row
    assert all(f'{k}={v}' in found.note for k, v in moved.items()), row
    kept = to_flags(found.config)
    for field, value in row.items():
      free = (field, value) == ('feedforward.width', 'none')
      assert free or kept[field] == value, row
    assert override(Config(), kept) == found.config, row
    # It gives up only where a width could not move.
    assert found.exact or 'fixed' in found.note, (row, found.note)
    before = figure(config, by) / figure(base, by)
    assert max(ratio, 1 / ratio) <= max(before, 1 / before), row
    seen += 1
  assert seen > 20


def test_is_deterministic() -> None:
  base = base_of('rope')
  for config in [*rows(base)][::4]:
    first, second = (match(base, config, VOCAB, 'params') for _ in range(2))
    assert first == second


def solved(
  row: dict[str, str], by: By = 'params'
) -> tuple[dict[str, str], str]:
  """Returns the widths that a row of the default base gets, and the note."""
  base = base_of('default')
  config = override(base, row)
  found = match(base, config, VOCAB, by)
  return changes(config, found.config), found.note


def test_by_hand() -> None:
  """Layers of width D: 4 D^2 for attention, 2 D F for feed-forward."""
  # raw frees 4 x 64^2 = 16,384 a layer, 128 hidden units more.
  assert solved({'projections': 'raw'}) == (
    {'feedforward.width': '384'},
    'feedforward.width=384',
  )
  # Of 3 matrices 4,096 a layer, 32 hidden units.
  assert solved({'projections': 'shared_kv'})[0] == {'feedforward.width': '288'}
  # 64 x 65 parameters more for the unembedding, 16.25 hidden units fewer in
  # each of 2 layers; as many FLOPs as before.
  row = {'tie_embeddings': 'false'}
  assert solved(row)[0] == {'feedforward.width': '240'}
  assert solved(row, 'flops') == ({}, 'as it is')
  # Half as wide: nothing but a feed-forward width far from 4 x 32 can match.
  assert solved({'d_model': '32'})[0] == {'feedforward.width': '738'}
  # 4 heads x 16 units more: 4 x 64 x 64 parameters, 128 hidden units fewer; and
  # 12 x 64 x 64 FLOPs for logits and mixing, 64 hidden units (6 x 128 each).
  row = {'head_dim': '32'}
  assert solved(row)[0] == {'feedforward.width': '128'}
  assert solved(row, 'flops')[0] == {'feedforward.width': '64'}


def test_rows_of_the_right_size_stay() -> None:
  base = base_of('default')
  assert match(base, base, VOCAB, 'flops').config == base
  for row in ({'num_heads': '2'}, {'scale': 'none'}, {'norm': 'none'}):
    assert solved(row) == ({}, 'as it is')


def test_the_solved_width_is_the_best_of_all() -> None:
  base, by = base_of('sizes'), 'params'
  config = override(base, {'projections': 'shared_qkv'})
  found = match(base, config, VOCAB, by)
  best = min(
    range(50, 801),
    key=lambda width: abs(
      figure(override(config, {'feedforward.width': str(width)}), by)
      - figure(base, by)
    ),
  )
  assert to_flags(found.config)['feedforward.width'] == str(best)


@pytest.mark.parametrize('layers', ['5', '8'])
def test_the_model_narrows_before_the_feed_forward_vanishes(
  layers: str,
) -> None:
  moved, _ = solved({'num_layers': layers})
  assert moved.keys() == {'d_model', 'feedforward.width'}
  d_model, width = (int(moved[k]) for k in ('d_model', 'feedforward.width'))
  assert d_model % 4 == 0
  # The model does the work; the feed-forward width keeps its part of it.
  assert 3 < width / d_model < 5


def test_a_row_that_cannot_match_keeps_a_feed_forward() -> None:
  # Attention alone has more parameters than the base.
  moved, note = solved({'d_model': '128'})
  assert moved == {'feedforward.width': '128'}  # a quarter, not 1
  assert 'not within' in note


def test_rotary_heads_stay_even() -> None:
  base = override(Config(), {'position': 'rope', 'd_model': '72'})
  for layers in ('5', '6', '7', '9', '12'):
    config = override(base, {'num_layers': layers})
    found = match(base, config, VOCAB, 'params')
    assert found.exact
    assert found.config.architecture.d_model % 8 == 0


@pytest.mark.parametrize(
  ('row', 'moves', 'says'),
  [
    ({'feedforward': 'none'}, {'d_model'}, 'feedforward=none has none'),
    (
      {'d_model': '32'},
      {'feedforward.width'},
      'd_model fixed: the row sets it',
    ),
    (
      {'feedforward.width': '64'},
      {'d_model'},
      'feedforward.width fixed: the row sets it',
    ),
    ({'feedforward.width': '9', 'd_model': '32'}, set(), 'not within 0.5%'),
    (
      {'num_layers': '4', 'init_from': 'here:0'},
      set(),
      'the initial parameters are given',
    ),
  ],
  ids=str,
)
def test_what_cannot_move_is_said(
  row: dict[str, str], moves: set[str], says: str
) -> None:
  moved, note = solved(row)
  assert moved.keys() == moves
  assert says in note


def test_a_row_whose_model_narrows_for_want_of_a_width_is_warned_of() -> None:
  base = base_of('default')

  def warning(row: dict[str, str]) -> str | None:
    return match(base, override(base, row), VOCAB, 'params').warning

  said = warning({'feedforward': 'none'})
  assert said is not None
  assert "--feedforward=none has no field 'width', so d_model=" in said
  assert 'where the base has 64' in said
  # Its width does the work; what the row sets itself is no surprise.
  assert warning({'projections': 'raw'}) is None
  assert warning({'num_layers': '8'}) is None
  assert warning({'feedforward': 'none', 'd_model': '96'}) is None


def test_a_feed_forward_that_the_row_adds_is_free() -> None:
  base = override(Config(), {'feedforward': 'none', 'd_model': '108'})
  config = override(base, {'feedforward': 'mlp', 'd_model': '64'})
  found = match(base, config, VOCAB, 'params')
  assert found.exact
  # One that goes back to 4 x d_model is about the width.
  config = override(base_of('sizes'), {'feedforward.width': 'none'})
  found = match(base_of('sizes'), config, VOCAB, 'params')
  assert to_flags(found.config)['feedforward.width'] == 'none'
  assert 'feedforward.width fixed' in found.note


def test_vocabularies_may_differ() -> None:
  base = base_of('default')
  found = match(base, base, 257, 'params', base_vocab_size=VOCAB)
  want = figure(base, 'params')
  assert found.exact
  assert abs(figure(found.config, 'params', 257) / want - 1) <= 0.005


def test_none_changes_nothing_and_tells_the_ratio() -> None:
  base = base_of('default')
  config = override(base, {'feedforward': 'none'})
  found = match(base, config, VOCAB, 'none')
  assert found.config is config
  assert found.ratio == figure(config, 'params') / figure(base, 'params')
  assert not found.exact
