"""What figures are of: which rows get a verdict, and at which targets."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.experiment import BASE, Row
from experiments.planning.comparable import ComparisonPlan, plan_comparison
from experiments.questions.discover import discover
from experiments.rows import rows
from experiments.rows import title as question
from experiments.table import table as tables
from experiments.table.extent import (
  ComparisonLimits,
  on_positions,
  target_mismatches,
)
from helpers.commands import run, trials
from train.config.config import Config
from train.config.targets import (
  Targets,
  incomparable_reason,
  shared_positions,
  targets_of,
)
from train.core.metric import BITS_PER_BYTE, PERPLEXITY, VAL_LOSS, Metric
from train.flags.schema import override
from train.tasks.base import Data, Task
from train.tasks.texts.translation import BLEU
from train.text.tokenizer import (
  AnyTokenizer,
  BpeTokenizer,
  ByteTokenizer,
  CharTokenizer,
  WordPieceTokenizer,
  WordTokenizer,
)
from train.text.vocabulary import Special

pytestmark = pytest.mark.usefixtures('quick_compilation')

TEXT = 'Zoë and the naïve 猫 sat; a cat and the dog ran.\n'


# Bytes of tokens. -------------------------------------------------------------


@pytest.mark.parametrize(
  'tokenizer', [ByteTokenizer(), CharTokenizer(), BpeTokenizer(vocab_size=280)]
)
@pytest.mark.parametrize('special', [(), (Special.MASK,)])
def test_bytes_of_tokens_add_up_to_the_text(
  tokenizer: AnyTokenizer, special: tuple[Special, ...]
) -> None:
  vocabulary = tokenizer.train(lambda: [TEXT * 9], special)
  sizes = vocabulary.token_bytes()
  assert sizes is not None
  assert sizes[vocabulary.encode(TEXT)].sum() == len(TEXT.encode())
  assert sizes[: len(special)].sum() == 0


@pytest.mark.parametrize(
  'tokenizer', [WordTokenizer(), WordPieceTokenizer(vocab_size=200)]
)
def test_tokens_that_lose_text_have_no_bytes(tokenizer: AnyTokenizer) -> None:
  assert tokenizer.train(lambda: [TEXT * 9]).token_bytes() is None
  unknown = CharTokenizer().train(lambda: [TEXT], (Special.UNK,))
  assert unknown.token_bytes() is None


# Which rows are comparable. ---------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Texts of one byte a character, of 1,601 in the validation part."""
  folder = tmp_path_factory.mktemp('texts')
  draw = random.Random(0)
  for name in ('a', 'b'):
    words = draw.choices(['to', 'be', 'or', 'not', 'question.\n'], k=5000)
    (folder / f'{name}.txt').write_text(' '.join(words)[:16010])
  lines = [
    f'{"dog cat"[: n % 6 + 1]}{chr(97 + n % 26)}{n // 26}\t{"yn"[n % 2]}\n'
    for n in range(60)
  ]
  (folder / 'labels.tsv').write_text(''.join(lines))
  return folder


_loaded: dict[Task, Data] = {}


def of(folder: Path, *flags: str) -> Targets:
  given = {'task.path': str(folder / 'a.txt'), 'seq_len': '16'}
  if any('classif' in flag for flag in flags):
    given = {'task.data.train': str(folder / 'labels.tsv'), 'seq_len': '16'}
  for flag in flags:
    name, _, value = flag.partition('=')
    given[name] = value.replace('DIR', str(folder))
  config = override(Config(), given)
  if config.task not in _loaded:
    _loaded[config.task] = config.task.load()
  return targets_of(config, _loaded[config.task])


CLASSES = ('task=classification', 'model=classifier', 'task.data=tsv')
MLM = ('task=mlm', 'model=encoder')


@pytest.mark.parametrize(
  ('base', 'row', 'metric', 'said'),
  [
    ((), ('label_smoothing=0.1', 'dropout_residual=0.2'), VAL_LOSS, ''),
    ((), ('position=rope', 'num_heads=2', 'batch_size=4'), VAL_LOSS, ''),
    ((), ('task.reserve_mask=true',), VAL_LOSS, ''),
    ((), ('seq_len=32',), VAL_LOSS, ''),
    ((), ('seq_len=32', 'eval_examples=9'), VAL_LOSS, 'windows'),
    (('eval_examples=9',), ('eval_examples=8',), VAL_LOSS, '8 windows'),
    ((), ('task.tokenizer=byte',), VAL_LOSS, '--metric=bits_per_byte'),
    ((), ('task.tokenizer=byte',), PERPLEXITY, 'per token'),
    ((), ('task.tokenizer=byte',), BITS_PER_BYTE, ''),
    ((), ('task.tokenizer=word',), VAL_LOSS, 'per token'),
    ((), ('task.tokenizer=word',), BITS_PER_BYTE, 'loses some of the text'),
    (('task.tokenizer=word',), (), BITS_PER_BYTE, "the base's"),
    ((), ('task.path=DIR/b.txt',), VAL_LOSS, '--task.path'),
    ((), MLM, VAL_LOSS, '--task=mlm'),
    (MLM, (*MLM, 'position=rope'), VAL_LOSS, ''),
    (MLM, (*MLM, 'task.rate=0.3'), VAL_LOSS, '--task.rate=0.3'),
    (MLM, (*MLM, 'task.tokenizer=byte'), VAL_LOSS, 'per token'),
    (MLM, (*MLM, 'seq_len=32'), VAL_LOSS, 'of 32 tokens'),
    (CLASSES, (*CLASSES, 'task.tokenizer=char'), VAL_LOSS, ''),
    (CLASSES, (*CLASSES, 'task.buckets=2'), VAL_LOSS, ''),
    (CLASSES, (*CLASSES, 'task.tokenizer=char', 'seq_len=5'), VAL_LOSS, 'rows'),
  ],
)
def test_an_obstacle_is_said(
  base: tuple[str, ...],
  row: tuple[str, ...],
  metric: Metric,
  said: str,
  folder: Path,
) -> None:
  found = incomparable_reason(metric, of(folder, *base), of(folder, *row))
  assert (said in found) if said else (found == '')


def test_a_training_loss_is_that_of_its_labels(folder: Path) -> None:
  measured = Config().task.measured()
  smoothed = of(folder, 'label_smoothing=0.1')
  assert 'label_smoothing' in incomparable_reason(
    measured['train_loss'], of(folder), smoothed
  )


def test_whole_texts_do_not_depend_on_tokens(folder: Path) -> None:
  """BLEU is of texts: tokens and lengths are choices that it may compare."""
  one, two = (
    dataclasses.replace(of(folder), task='translation', flags=flags)
    for flags in ((('judged', '4'),), (('judged', '5'),))
  )
  other = dataclasses.replace(one, vocabulary='other', examples='other')
  assert incomparable_reason(BLEU, one, other) == ''
  assert '--task.judged=5' in incomparable_reason(BLEU, one, two)
  assert incomparable_reason(VAL_LOSS, one, other)


def test_a_cut_tail_is_another_text(folder: Path) -> None:
  base = of(folder)
  cut = dataclasses.replace(base, examples='all but its last 5 bytes')
  assert 'last 5 bytes' in incomparable_reason(VAL_LOSS, base, cut)


def test_prefixes_share_some_positions(folder: Path) -> None:
  base, row = of(folder), of(folder, 'mask=prefix', 'mask.prefix=9')
  assert shared_positions(base, base) is None
  assert (
    shared_positions(base, row)
    == shared_positions(row, base)
    == tuple(range(8, 16))
  )
  longer = of(folder, 'mask=prefix', 'mask.prefix=12')
  assert shared_positions(longer, row) == tuple(range(11, 16))
  assert shared_positions(base, of(folder, 'mask=prefix', 'seq_len=32')) == ()


def _found(
  folder: Path, metric: Metric, rows: Mapping[str, str]
) -> ComparisonPlan:
  named = {name: of(folder, *flags.split()) for name, flags in rows.items()}
  return plan_comparison(metric, BASE, {BASE: of(folder), **named})


def test_other_tokens_are_compared_by_bytes(folder: Path) -> None:
  found = _found(
    folder,
    VAL_LOSS,
    {
      'byte': 'task.tokenizer=byte',
      'word': 'task.tokenizer=word',
      'rope': 'position=rope',
      'prefix': 'mask=prefix',
      'both': 'mask=prefix task.tokenizer=byte',
    },
  )
  assert found.metric == BITS_PER_BYTE
  assert set(found.withheld) == {'word', 'both'}
  assert set(found.positions) == {'prefix'}
  assert 'bits per byte' in found.lines()[0]
  assert any('no verdict on word' in line for line in found.lines())


def test_without_other_tokens_the_loss_is_compared(folder: Path) -> None:
  found = _found(
    folder, VAL_LOSS, {'word': 'task.tokenizer=word', 'norm': 'norm=none'}
  )
  assert found.metric == VAL_LOSS
  assert set(found.withheld) == {'word'}
  found = _found(folder, PERPLEXITY, {'byte': 'task.tokenizer=byte'})
  assert found.metric == PERPLEXITY
  assert set(found.withheld) == {'byte'}


def test_accuracy_is_not_known_at_some_positions(folder: Path) -> None:
  accuracy = Config().task.measured()['val_accuracy']
  found = _found(folder, accuracy, {'prefix': 'mask=prefix'})
  assert 'val_accuracy is not known' in found.withheld['prefix']


# What the record says. --------------------------------------------------------


def _record(
  row: str, seed: int, losses: list[float], counts: list[float]
) -> Mapping[str, Any]:
  count = sum(counts)
  loss = sum(x * n for x, n in zip(losses, counts, strict=True)) / count
  return {
    'row': row,
    'seed': seed,
    'status': 'ok',
    'metrics': {'val_loss': loss, 'targets': count, 'bytes': 2 * count},
    'clock': {'seconds': 1.0},
    'tokens': 100,
    'config': {'seq_len': '3'},
    'by_position': {
      'loss': [x * n for x, n in zip(losses, counts, strict=True)],
      'targets': counts,
      'bytes': [2 * n for n in counts],
    },
  }


def test_a_prefix_is_compared_where_the_base_predicts_too() -> None:
  """The base is judged at the last position alone, as the row is."""
  records = [
    *(_record(BASE, n, [9.0, 5.0, 2.0 + n / 8], [4, 4, 4]) for n in range(3)),
    *(_record('row', n, [0, 0, 2.49 + n * 0.135], [0, 0, 4]) for n in range(3)),
  ]
  found = ComparisonPlan(VAL_LOSS, {}, {'row': (2,)}, ())
  by_row = {BASE: records[:3], 'row': records[3:]}
  assert target_mismatches(found, BASE, by_row) == {}
  table = tables.make_table(
    records, [BASE, 'row'], BASE, limits=ComparisonLimits(found.positions)
  )
  base, row = table.rows
  assert (base.targets, row.targets) == (12, 4)
  assert base.mean == pytest.approx((9 + 5 + 2.125) / 3)
  assert row.difference == pytest.approx(0.5)
  assert row.verdict == 'worse'
  assert 'over the 4 targets that both predict: base 2.1250, here 2.6250' in (
    row.note
  )
  (at,) = on_positions(records[:1], 'bits_per_byte', (1, 2))
  assert at['metrics']['bits_per_byte'] == pytest.approx(3.5 / 2 / math.log(2))


def test_what_was_counted_decides_in_the_end() -> None:
  base = [_record(BASE, 0, [1.0] * 3, [4, 4, 4])]
  fewer = [_record('row', 0, [1.0] * 3, [4, 4, 3])]
  equal = ComparisonPlan(VAL_LOSS, {}, {}, ())
  assert target_mismatches(equal, BASE, {BASE: base, 'row': fewer}) == {
    'row': 'was judged on 11 targets, the base on 12'
  }
  # The first token of a text, which nobody predicts, is not a byte everywhere.
  by_bytes = dataclasses.replace(equal, metric=BITS_PER_BYTE)
  assert target_mismatches(by_bytes, BASE, {BASE: base, 'row': fewer}) == {}
  old = [{**base[0], 'by_position': {}}]
  at = dataclasses.replace(equal, positions={'row': (1,)})
  found = target_mismatches(at, BASE, {BASE: old, 'row': fewer})
  assert 'kept by position' in found['row']


def test_rows_of_other_targets_show_no_difference() -> None:
  records = [
    _record(name, n, [x + n / 8], [4])
    for name, x in ((BASE, 1.0), ('row', 3.0))
    for n in range(4)
  ]
  table = tables.make_table(
    records,
    [BASE, 'row'],
    BASE,
    withheld={'row': 'is judged on others'},
    limits=ComparisonLimits(incomparable={'row'}),
  )
  _, row = table.rows
  assert (row.verdict, row.reason) == ('undecided', 'is judged on others')
  assert (row.difference, row.p, row.mean) == (None, None, 3.1875)


# What is asked. ---------------------------------------------------------------


def _asked(*requests: str, base: str = '') -> question.Question:
  found = discover()['ladder']
  given = dict(word.split('=') for word in base.split())
  config = override(found.base, given)
  every = rows.expand_rows(
    config, found.rows, rows.RowRequests(ablate=requests)
  )
  return question.question(found, config, every)


def test_a_claim_is_stated_where_its_rows_ran_as_written() -> None:
  ladder = discover()['ladder']
  whole = question.Question(ladder.title, ladder.claim, ladder.citation)
  assert _asked() == whole
  assert _asked(base='steps=20') == whole
  other = _asked(base='batch_size=16')
  assert other.title == ladder.title
  assert other.citation == ''
  assert 'batch_size=16 for 8' in other.claim
  # A base without positions leaves out the row that is without them.
  assert _asked(base='position=none').claim == ''


@pytest.mark.parametrize(
  ('requests', 'title'),
  [
    (('position=rope',), 'What does position=rope change?'),
    (('position=rope', 'position=alibi'), 'What does position change?'),
    (('position=rope', 'norm=rmsnorm'), 'What do position and norm change?'),
  ],
)
def test_a_title_says_what_rows_vary(
  requests: tuple[str, ...], title: str
) -> None:
  assert _asked(*requests) == question.Question(title, '', '')


def test_the_base_says_what_it_is() -> None:
  base = Config()
  every = rows.expand_rows(
    base, (), rows.RowRequests(ablate=('position=rope', 'num_heads=2'))
  )
  said = question.label(base, every)
  heads = base.architecture.num_heads
  assert said == f'base (position=learned num_heads={heads})'
  assert question.label(base, [Row(BASE, {})]) == BASE


# Commands. --------------------------------------------------------------------

TINY = (
  '--num_layers=1',
  '--d_model=16',
  '--num_heads=2',
  '--seq_len=16',
  '--batch_size=4',
  '--steps=2',
  '--eval_every=2',
  '--warmup_steps=1',
  '--lanes=shared:1',
  '--workdir=w',
)


@pytest.mark.slow
def test_a_second_comparison_leaves_the_first(
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """Prefix rows, then tokens, then a seed more, in one directory."""
  monkeypatch.chdir(tmp_path)
  given = (*TINY, f'--task.path={folder / "a.txt"}')
  prefix, byte = '--ablate=mask=prefix', '--ablate=task.tokenizer=byte'
  given = (*given, '--eval_examples=none')
  assert run(*given, prefix, '--seeds=2') == 0
  (first,) = (p for p in Path('w/comparisons').iterdir() if p.is_dir())
  kept = {p.name: p.read_bytes() for p in first.iterdir()}
  assert Path('w/table.md').read_bytes() == kept['table.md']
  _check_records(trials('w'))

  assert run(*given, prefix, byte, '--seeds=2') == 0
  assert {p.name: p.read_bytes() for p in first.iterdir()} == kept
  table = json.loads(Path('w/table.json').read_text())
  assert table['metric'] == 'bits_per_byte'
  assert table['rows'][0]['label'] == 'base (mask=auto task.tokenizer=char)'
  assert [row['reason'] for row in table['rows']] == [''] * 3
  (added,) = table['before']
  assert added.endswith('shown: task.tokenizer=byte.')
  report = Path('w/report.html').read_text()
  assert 'What do mask and task.tokenizer change?' in report
  assert discover()['ladder'].claim not in report

  assert run(*given, prefix, '--seeds=3') == 0
  table = json.loads((first / 'table.json').read_text())
  assert table['before'] == [
    'Seeds were added or left out after a verdict over 2 was shown.'
  ]
  assert '2 was shown' in (first / 'table.md').read_text()

  # What came later has no say in what was shown before.
  assert run(*given, prefix, byte, '--seeds=2') == 0
  assert json.loads(Path('w/table.json').read_text())['before'] == [added]
  # In another comparison seeds are added, and rows left out, all the same.
  assert run(*given, byte, '--seeds=3') == 0
  assert json.loads(Path('w/table.json').read_text())['before'] == [
    'Seeds were added or left out after a verdict over 2 was shown.',
    'Left out after a verdict on it was shown: mask=prefix.',
  ]
  assert run(*given, byte, '--seeds=3', '--margin=0.2') == 0
  said = json.loads(Path('w/table.json').read_text())['before'][-1]
  assert said.startswith('A verdict on the same rows was shown before, by')

  # What cannot be read is not taken for what was never shown.
  path = Path('w/comparisons/shown.jsonl')
  path.write_bytes(path.read_bytes().replace(b'": 2', b'": 3'))
  capsys.readouterr()
  assert run(*given, prefix, '--seeds=3') == 0
  assert 'shown.jsonl: line 1 is damaged' in capsys.readouterr().err
  table = json.loads((first / 'table.json').read_text())
  assert table['before'] == [
    '2 of the verdicts shown before cannot be read '
    '(comparisons/shown.jsonl is damaged).'
  ]


def _check_records(found: list[dict[str, Any]]) -> None:
  """Checks that sums by position are those of the whole."""
  for record in found:
    metrics, sums = record['metrics'], record['by_position']
    count, loss = metrics['targets'], metrics['val_loss']
    assert (
      sum(sums['targets']) == count == (1600 if record['row'] == BASE else 900)
    )
    assert sum(sums['bytes']) == metrics['bytes'] == count  # all of them ASCII
    assert sum(sums['loss']) / count == pytest.approx(loss, rel=1e-6)
    assert metrics['bits_per_byte'] == pytest.approx(loss / math.log(2))
    assert metrics['perplexity'] == pytest.approx(math.exp(loss))


@pytest.mark.parametrize(
  ('more', 'said'),
  [
    (('--tune=seq_len=8 16', '--eval_examples=9'), '--tune=seq_len=16'),
    (('--halving=2', '--ablate=task.tokenizer=word'), '--halving=2'),
    (('--halving=2', '--ablate=mask=prefix'), '--halving=2'),
  ],
)
def test_what_cannot_be_compared_is_not_selected(
  more: tuple[str, ...],
  said: str,
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  sizes = [flag for flag in TINY if 'steps' not in flag]
  given = (*sizes, f'--task.path={folder / "a.txt"}', '--warmup_steps=1')
  steps = ('--steps=16', '--eval_every=2', '--ablate=position=none')
  assert run(*given, *steps, *more, '--ablate=norm=none') == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert said in err
  assert err.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_a_plan_says_what_gets_no_verdict(
  folder: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  words = ('task.tokenizer=word', 'task.tokenizer=byte', 'mask=prefix')
  argv = itertools.chain(TINY, (f'--ablate={word}' for word in words))
  path = f'--task.path={folder / "a.txt"}'
  assert run(*argv, path, '--plan') == 0
  out = capsys.readouterr().out
  assert 'no verdict on task.tokenizer=word: ' in out
  assert 'bits per byte, not the loss per token' in out
  assert 'mask=prefix: compared at the 9 positions' in out
  assert 'base (task.tokenizer=char mask=auto)' in out
  assert 'no verdict on task.tokenizer=byte' not in out
