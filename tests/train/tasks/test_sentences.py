"""Translation and classification: which rows a step has, and what they hold."""

import collections
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.translations import Held, translation
from lessons import PAIRS
from model.architecture.architecture import Architecture
from model.architecture.family import Classifier
from model.core.field import FieldError
from train.config.config import Config
from train.core.errors import DataError
from train.data.tables.base import Jsonl, ParallelText
from train.data.tables.delimited import Tsv
from train.programs.batches import batch_of, bucket_of
from train.tasks.base import Batch, Data
from train.tasks.buckets import BatchShape
from train.tasks.texts.classification import Classification
from train.tasks.texts.translation import Translation
from train.text.store import from_json
from train.text.tokenizer import (
  AnyTokenizer,
  BpeTokenizer,
  ByteTokenizer,
  CharTokenizer,
  WordTokenizer,
)
from train.text.vocabulary import CharVocabulary, Special


def arrays_of(data: Data) -> dict[str, jax.Array]:
  return {name: jnp.asarray(value) for name, value in data.arrays.items()}


def sentences(
  data: Data, tokens_BT: jax.Array, real_BT: jax.Array
) -> list[str]:
  return [
    ' '.join(data.vocabulary.symbols(row_T[real_T != 0]))
    for row_T, real_T in zip(
      np.asarray(tokens_BT), np.asarray(real_BT), strict=True
    )
  ]


# Which rows a step has. -------------------------------------------------------


def one_epoch(config: Config, seed: int, first: int) -> list[Batch]:
  """Returns as many batches as an epoch has, from a step on."""
  data = config.task.load()
  arrays, config = arrays_of(data), dataclasses.replace(config, seed=seed)
  shapes = config.task.shapes(config.batch_size, config.seq_len)
  lengths = data.arrays['train_lengths']
  counts = collections.Counter(
    max(k for k, shape in enumerate(shapes) if size <= shape.length)
    for size in lengths
    if size <= config.seq_len
  )
  total = sum(-(-counts[k] // shape.rows) for k, shape in enumerate(shapes))
  found = []
  for step in range(first, first + total):
    at = jnp.asarray(step)
    bucket = int(bucket_of(config, arrays, at))
    found.append(batch_of(config, arrays, at, bucket))
    assert found[-1].inputs.tokens_BT.shape == shapes[bucket]
  return found


@pytest.mark.slow
@pytest.mark.parametrize('buckets', [1, 3])
def test_an_epoch_holds_every_row_that_fits_once(buckets: int) -> None:
  config = translation(buckets)
  data = config.task.load()
  batches = one_epoch(config, seed=0, first=0)
  seen = [
    text
    for batch in batches
    for text, weights_T in zip(
      sentences(
        data, batch.inputs.source.tokens_BS, batch.inputs.source.segments_BS
      ),
      np.asarray(batch.weights_BT),
      strict=True,
    )
    if weights_T.any()
  ]
  # n words, a number and <eos>: up to 22 of them fit 24 positions.
  assert sorted(seen) == sorted(f'{s} <eos>' for s, _ in PAIRS[:22])
  ids = np.concatenate([batch.ids_B for batch in batches])
  assert len(set(ids.tolist())) == len(ids)


@pytest.mark.slow
def test_order_is_a_function_of_seed_and_step() -> None:
  def told(batches: list[Batch]) -> list[list[int]]:
    return [
      np.asarray(b.inputs.source.tokens_BS).ravel().tolist() for b in batches
    ]

  config = translation()
  first = one_epoch(config, seed=0, first=0)
  length = len(first)
  assert told(one_epoch(config, 0, 0)) == told(first)
  assert told(one_epoch(config, 0, 3))[: length - 3] == told(first)[3:]
  later, other = one_epoch(config, 0, length), one_epoch(config, 1, 0)
  assert told(later) != told(first) != told(other)


def test_buckets_cost_the_same() -> None:
  shapes = translation().task.shapes(8, 24)
  assert shapes == (BatchShape(8, 24), BatchShape(16, 12), BatchShape(24, 8))


# What they hold. --------------------------------------------------------------


def test_pairs_are_shifted_ended_and_filled_up() -> None:
  config = translation()
  data = config.task.load()
  batch = config.task.evaluation_batch(
    arrays_of(data), jnp.asarray([0, 2]), seq_len=6
  )
  pad = data.vocabulary.id_of(Special.PAD)
  everything = np.ones((2, 6))
  assert sentences(data, batch.inputs.source.tokens_BS, everything) == [
    'go 1 <eos> <pad> <pad> <pad>',
    'go go go 3 <eos> <pad>',
  ]
  assert sentences(data, batch.inputs.tokens_BT, everything) == [
    '<bos> geh geh 1 <pad> <pad>',
    '<bos> geh geh geh geh 3',
  ]
  assert sentences(data, batch.targets_BT, everything) == [
    'geh geh 1 <eos> <pad> <pad>',
    'geh geh geh geh 3 <eos>',
  ]
  real_BT = np.asarray(batch.targets_BT) != pad
  np.testing.assert_array_equal(batch.weights_BT, real_BT)
  np.testing.assert_array_equal(
    batch.inputs.source.segments_BS,
    np.asarray(batch.inputs.source.tokens_BS) != pad,
  )


def test_what_is_too_long_is_counted_and_left_out() -> None:
  config = translation()
  data = config.task.load()
  batch = config.task.evaluation_batch(
    arrays_of(data), jnp.arange(9), seq_len=8
  )
  # Rows of n words, a number, and <eos>: of the sixth the target is longer.
  fits = [n + 2 <= 8 and len(PAIRS[n - 1][1].split()) < 8 for n in range(1, 10)]
  np.testing.assert_array_equal(np.asarray(batch.weights_BT).any(1), fits)
  lost = 9 - sum(fits)
  notes = (
    'left out of the loss, for they are longer than --seq_len=8: 25 rows to '
    f'train on, {lost} rows to evaluate on; '
  )
  # Of rows 7, 8 and 9 the source has more than 7 tokens; of row 6 the target.
  assert lost == 4
  bleu = 'BLEU is of 9 rows, the sources of 3 of them cut to 7 tokens'
  assert config.task.notes(data, 8) == notes + bleu
  few = dataclasses.replace(config.task, judged=7).notes(data, 8)
  assert few == notes + bleu.replace('9', '7').replace('of 3', 'of 1')
  few = dataclasses.replace(config.task, judged=6).notes(data, 8)
  assert f'{few}; ' == notes
  assert config.task.notes(data, 40) == ''
  problem = config.task.problem(data, 2)
  assert problem is not None
  assert 'no row of its train part fits --seq_len=2' in problem


def test_no_more_buckets_than_tokens() -> None:
  """The fifth would be of four fifths of a token, which is none."""
  task = translation(5).task
  data = task.load()
  assert task.problem(data, 5) is None
  assert task.problem(data, 4) == (
    '--task.buckets=5: must be at most --seq_len=4, or the shortest rows have '
    'no token: try --task.buckets=4'
  )
  assert translation(4).task.problem(data, 4) is None


def test_labels_are_those_of_the_training_part() -> None:
  task = Classification(Held(train='x'))
  data = task.load()
  assert data.vocabulary.labels == ('long', 'short')
  assert from_json(data.vocabulary.to_json()) == data.vocabulary
  batch = task.evaluation_batch(arrays_of(data), jnp.asarray([0, 5]), 9)
  np.testing.assert_array_equal(batch.targets_BT, [[1], [0]])
  text = sentences(data, batch.inputs.tokens_BT, batch.inputs.segments_BT)
  assert text == ['<cls> go 1', '<cls> go go go go go go 6']


# Any tokenizer. ---------------------------------------------------------------


@pytest.mark.parametrize(
  'tokenizer',
  [CharTokenizer(), ByteTokenizer(), BpeTokenizer(300), WordTokenizer()],
)
def test_any_tokenizer_serves(tokenizer: AnyTokenizer) -> None:
  config = translation(1, tokenizer)
  data = config.task.load()
  batch = config.task.evaluation_batch(arrays_of(data), jnp.asarray([0]), 24)
  target_T = np.asarray(batch.targets_BT)[0][
    np.asarray(batch.weights_BT)[0] > 0
  ]
  assert data.vocabulary.decode(target_T) == 'geh geh 1'
  again = config.task.load(data.vocabulary)
  assert again.digest == data.digest
  np.testing.assert_array_equal(
    again.arrays['train_source'], data.arrays['train_source']
  )


def test_characters_are_those_of_the_training_part(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'a.tsv'
  path.write_text('ab\tcd\n' * 9 + 'ax\tcyzz\n')
  data = Translation(Tsv(train=str(path)), CharTokenizer()).load()
  assert isinstance(data.vocabulary, CharVocabulary)
  assert data.vocabulary.characters == 'abcd'
  shown = data.vocabulary.decode(data.arrays['validation_target'])
  assert shown == 'c<unk><unk><unk>'
  # 4 of the 6 characters to evaluate on.
  assert '66.67% of the latter unknown' in data.description


# What is refused. -------------------------------------------------------------


def test_wrong_tables_are_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(
    FieldError, match=r'--task\.data=none: --task=translation'
  ):
    Translation().load()
  (tmp_path / 'a.en').write_text('one\ntwo\n')
  (tmp_path / 'a.de').write_text('eins\n')
  lines = ParallelText(train=str(tmp_path / 'a'))
  with pytest.raises(DataError, match=r'a\.en has 2, .*a\.de has 1 lines'):
    Translation(lines).load()
  path = tmp_path / 'b.jsonl'
  path.write_text(
    '\n'.join(
      f'{{"text": "a {n}", "label": "{"xy"[n % 2]}"}}' for n in range(9)
    )
  )
  held = tmp_path / 'c.jsonl'
  held.write_text('{"text": "c", "label": "z"}\n{"text": "d", "label": "x"}\n')
  task = Classification(Jsonl(train=str(path), validation=str(held)))
  with pytest.raises(DataError, match="row 1 has the label 'z', which no row"):
    task.load()
  made_for_texts = Classification(Jsonl(train=str(path))).load().vocabulary
  with pytest.raises(DataError, match='lacks <bos>: it was made for another'):
    Translation(Held(train='x')).load(made_for_texts)


def test_families_and_tasks_go_together() -> None:
  with pytest.raises(FieldError, match='try --model=encoder_decoder'):
    Config(task=Translation())
  with pytest.raises(FieldError, match='try --model=decoder'):
    Config(architecture=Architecture(model=Classifier()))
