"""Translations: cached as uncached, alone as together, and BLEU of a trial."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags

from experiments.cli.main import main
from helpers import alone
from helpers.translations import translation
from lessons import LESSONS, PAIRS
from model.core.inputs import Source
from model.core.side_output import ATTENTION_MAPS
from session.compilations import Compilations
from train.config.config import Config
from train.core.errors import DataError
from train.devices.parallel import SharedLayout
from train.flags.schema import override
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import load
from train.programs.state import init_state
from train.sample import SAMPLE_FILE
from train.tasks.base import FinalMetrics
from train.tasks.bleu import Bleu, corpus_bleu
from train.tasks.texts.translation import Translation
from train.tasks.translate import Translator, translate_ids
from train.trial import Options, Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')

ARCHITECTURES = {
  'plain': {},
  'grouped': {'num_kv_heads': '1', 'position': 'rope', 'residual': 'post'},
  'recurrent': {'normalizer': 'none', 'position': 'none'},
  'biased': {'position': 'alibi', 'output': 'value_residual'},
  'no source': {'model.cross_attention': 'false'},
  'no self': {'model.self_attention': 'false'},
}


def made(name: str) -> Config:
  return override(translation(1), ARCHITECTURES[name] | {'init.std': '0.3'})


def translator(config: Config) -> Translator:
  data = config.task.load()
  dims = config.sizes(data.vocabulary)
  params = init_state(config, dims).params
  return Translator(config.architecture, dims, params, data.vocabulary)


def sources(spoken: Translator) -> list[np.ndarray]:
  texts = [source for source, _ in PAIRS[:10]]
  return spoken.vocabulary.encode_all(texts)


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_cached_equals_uncached(name: str) -> None:
  spoken = translator(made(name))
  given = sources(spoken)
  found = translate_ids(spoken, given, 3, 1.0)
  again = translate_ids(spoken, given, 3, 1.0, cached=False)
  assert [x.tolist() for x in found] == [x.tolist() for x in again]
  assert len({tuple(x.tolist()) for x in found}) > 1 or name == 'no source'


@pytest.mark.slow
def test_one_by_one_as_all_together() -> None:
  spoken = translator(made('plain'))
  given = sources(spoken)
  together = translate_ids(spoken, given, 2, 1.0)
  for source, expected in zip(given, together, strict=True):
    (found,) = translate_ids(spoken, [source], 2, 1.0)
    assert found.tolist() == expected.tolist()


def test_a_source_that_is_too_long_is_cut(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """To --seq_len=24 less <eos>, as the note of the task says."""
  spoken, read = translator(made('plain')), []

  def best(*arguments: Any) -> np.ndarray:
    (source,) = (x for x in arguments if isinstance(x, Source))
    read.extend(map(spoken.vocabulary.symbols, np.asarray(source.tokens_BS)))
    return np.zeros((len(source.tokens_BS), 24), np.int32)

  monkeypatch.setattr('train.tasks.translate._best', best)
  ids = spoken.vocabulary.encode(PAIRS[28][0])
  assert ids.size == 30
  translate_ids(spoken, [ids, ids[:23]], 2, 1.0)
  assert read[0] == read[1] == ['go'] * 23 + ['<eos>']


@pytest.mark.slow
def test_one_compilation_for_all_sources(compiled: Compilations) -> None:
  """As many as round up to the same power of two."""
  spoken = translator(made('biased'))
  given = sources(spoken)
  translate_ids(spoken, given, 2, 0.5)
  compiled.listener.reset_mock()
  for again in (given[:9], [*given, *given[:6]], given[::-1]):
    translate_ids(spoken, again, 2, 0.5)
  assert not compiled.names
  translate_ids(spoken, given[:1], 2, 0.5)
  translate_ids(spoken, given[5:6], 2, 0.5)
  assert len([name for name in compiled.names if 'best' in name]) == 1


@pytest.mark.parametrize(
  ('count', 'rows'), [(1, [1]), (2, [2]), (5, [8]), (64, [64]), (70, [64, 64])]
)
def test_rows_are_a_power_of_two(
  count: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
  """A text alone is no batch of 64; of many, all batches have one shape."""
  spoken, seen = translator(made('plain')), []

  def best(*arguments: Any) -> np.ndarray:
    (source,) = (x for x in arguments if isinstance(x, Source))
    assert len(arguments[-1]) == len(source.tokens_BS)
    seen.append(len(source.tokens_BS))
    return np.zeros((len(source.tokens_BS), 24), np.int32)

  monkeypatch.setattr('train.tasks.translate._best', best)
  ids = spoken.vocabulary.encode('go 1')
  assert len(translate_ids(spoken, [ids] * count, 2, 1.0)) == count
  assert seen == rows


# What a trial is judged by. ---------------------------------------------------


def judged(
  folder: pathlib.Path, rows: Sequence[tuple[str, str]], flags: dict[str, str]
) -> FinalMetrics:
  """Returns the judgement of a model that repeats each reference.

  Args:
    folder: where tables are written.
    rows: pairs of a source and a target, to evaluate on.
    flags: of the configuration.
  """
  keys = 'source', 'target'
  for name, pairs in (('train', PAIRS), ('held', rows)):
    lines = [json.dumps(dict(zip(keys, p, strict=True))) for p in pairs]
    (folder / f'{name}.jsonl').write_text('\n'.join(lines))
  table = {
    'task.data': 'jsonl',
    'task.data.train': str(folder / 'train.jsonl'),
    'task.data.validation': str(folder / 'held.jsonl'),
  }
  config = override(translation(1), table | flags)
  data = config.task.load()
  said = data.vocabulary.encode_all([target for _, target in rows])
  asked = []

  def repeated(
    spoken: Translator,
    sources: Sequence[np.ndarray],
    beam: int,
    penalty: float,
  ) -> list[np.ndarray]:
    del beam, penalty
    asked.extend(spoken.vocabulary.decode(ids) for ids in sources)
    return said[: len(sources)]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('train.tasks.texts.translation.translate_ids', repeated)
    found = config.task.final_metrics(
      config.architecture, config.sizes(data.vocabulary), {}, data
    )
  assert len(asked) == len(found.lines) - 1
  return found


@pytest.mark.parametrize('given', ['true', 'false'])
def test_a_word_that_the_model_lacks_is_not_right(
  given: str, tmp_path: pathlib.Path
) -> None:
  """Five words of which the third is wrong, and four that are right.

  <unk> is one word, and no three of them as 13a would cut it.
  """
  rows = [('go go 2', 'geh geh SCHNELL geh 2'), ('go 1', 'geh geh geh 1')]
  found = judged(tmp_path, rows, {'task.pretokenized': given})
  # Of words, and of runs of two, three and four.
  hits = 8 / 9, 5 / 7, 2 / 5, 1 / 3
  assert found.figures['bleu'] == pytest.approx(100 * math.prod(hits) ** 0.25)
  assert list(found.lines[1:]) == [
    'go go 2\tgeh geh <unk> geh 2\tgeh geh SCHNELL geh 2',
    'go 1\tgeh geh geh 1\tgeh geh geh 1',
  ]
  known = judged(tmp_path, rows[1:], {})
  assert known.figures['bleu'] == pytest.approx(100)
  # Nor is it where the table spells <unk>.
  spelled = [('go 1', 'geh geh <unk> geh'), *rows]
  other = judged(tmp_path, spelled, {'task.pretokenized': given}).figures
  hits = 11 / 13, 6 / 10, 2 / 7, 1 / 4
  # To 13a that is three tokens, and so there are fewer than there should be.
  short = 1.0 if given == 'true' else math.exp(1 - 15 / 13)
  score = 100 * short * math.prod(hits) ** 0.25
  assert other['bleu'] == pytest.approx(score)


def test_references_are_the_texts_of_the_table(tmp_path: pathlib.Path) -> None:
  """The longest first, a tab, two spaces: in their order, on a line each."""
  rows = [
    ('go go go 3', 'geh  GEH\tgeh geh geh 3'),
    ('go 1', 'geh geh 1'),
    ('go go 2', 'geh Gëh geh 2'),
  ]
  flags = {'task.tokenizer': 'wordpiece', 'task.judged': '2'}
  found = judged(tmp_path, rows, flags)
  assert list(found.lines) == [
    'source\ttranslation\treference',
    'go go go 3\tgeh geh geh geh geh 3\tgeh GEH geh geh geh 3',
    'go 1\tgeh geh 1\tgeh geh 1',
  ]
  flags = {'task.tokenizer': 'wordpiece'}
  found = judged(tmp_path, rows, flags)
  # Of the third row the pieces have lost two dots.
  assert found.lines[3] == 'go go 2\tgeh geh geh 2\tgeh Gëh geh 2'
  assert found.figures['bleu'] < 100


# Of a source, a reference: plain text, or words in pieces.
PLAIN = ('go 1', 'Geh, geh: geh 1!')
PIECES = ('go 1', 'ge@@ h geh , ge@@ h geh')


@pytest.mark.parametrize(
  ('row', 'given', 'shown', 'tokens'),
  [
    (PLAIN, 'none', PLAIN[1], 7),
    (PLAIN, 'true', PLAIN[1], 4),
    (PIECES, 'true', 'geh geh , geh geh', 5),
    (PIECES, 'none', PIECES[1], 11),
  ],
)
def test_texts_are_cut_unless_they_are_tokens(
  row: tuple[str, str],
  given: str,
  shown: str,
  tokens: int,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  counted = []

  def counting(*args: Any) -> Bleu:
    counted.append(corpus_bleu(*args))
    return counted[-1]

  monkeypatch.setattr('train.tasks.texts.translation.corpus_bleu', counting)
  flags = {'task.pretokenized': given, 'task.tokenizer': 'byte'}
  found = judged(tmp_path, [row], flags)
  assert found.lines[1].split('\t') == [row[0], shown, shown]
  assert [score.reference_length for score in counted] == [tokens]
  assert (
    found.figures['bleu'] == found.figures['sacrebleu'] == (pytest.approx(100))
  )


def test_sacrebleu_minds_case(tmp_path: pathlib.Path) -> None:
  flags = {'task.tokenizer': 'wordpiece'}
  found = judged(tmp_path, [('go 1', 'Geh geh geh geh 1')], flags).figures
  assert found['bleu'] == pytest.approx(100)
  hits = 4 / 5, 3 / 4, 2 / 3, 1 / 2
  assert found['sacrebleu'] == pytest.approx(100 * math.prod(hits) ** 0.25)


def test_what_is_in_pieces_is_said(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.tsv'
  path.write_text('go\tgeh\n' * 18 + 'go\tge@@ h\ngo\tgeh@@x\n')
  note = (
    'BLEU takes the @@ of 1 references for text: --task.pretokenized=true '
    'joins pieces of words'
  )
  for given, expected in (('none', note), ('true', '')):
    flags = {
      'task.data': 'tsv',
      'task.data.train': str(path),
      'task.pretokenized': given,
      'task.split': 'tail',
    }
    task = override(translation(1), flags).task
    assert task.notes(task.load(), 24) == expected


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns a workdir: a model that has learned to say `geh` and a number."""
  folder = tmp_path_factory.mktemp('translate')
  config = LESSONS['translation'].make(folder)
  data = config.task.load()
  cpus = SharedLayout(tuple(jax.local_devices(backend='cpu')[:1]))
  trial = Trial('t', config, folder / 'runs' / 't', data)
  result = alone.run(trial, Options(), cpus)
  (folder / 'result.json').write_text(json.dumps(result.metrics))
  return folder


@pytest.mark.slow
def test_a_trial_learns_to_translate(trained: pathlib.Path) -> None:
  metrics = json.loads((trained / 'result.json').read_text())
  lesson = LESSONS['translation']
  assert metrics[lesson.figure] < lesson.bound
  assert metrics['bleu'] == pytest.approx(100)
  assert metrics['brevity_penalty'] == 1
  # Every figure by which trials can be compared is there, and has a direction.
  assert set(metrics) == {*Translation.measured(), 'best_step', 'targets'}
  lines = (trained / 'runs' / 't' / 'written.tsv').read_text().splitlines()
  assert lines[0] == 'source\ttranslation\treference'
  assert lines[1].split('\t')[::2] == ['go 1', 'geh geh 1']
  assert len(lines) == 1 + 9
  shown = json.loads((trained / 'runs' / 't' / SAMPLE_FILE).read_text())
  assert shown['text'].splitlines()[:3] == [
    'source: go 1',
    'translation: geh geh 1',
    'reference: geh geh 1',
  ]


@pytest.mark.slow
def test_what_it_attends_to_is_kept(trained: pathlib.Path) -> None:
  loaded = load(trained, 't')
  with np.load(trained / 'runs' / 't' / 'attention.npz') as saved:
    kept = dict(saved)
  symbols = loaded.vocabulary.symbols
  # The first of the validation part is ('go 1', 'geh geh 1').
  assert symbols(kept['source_S']) == ['go', '1', '<eos>']
  assert symbols(kept['tokens_T']) == ['<bos>', 'geh', 'geh', '1']
  filled_S = np.pad(kept['source_S'], (0, 3))
  out = loaded.apply(
    kept['tokens_T'][None].astype(np.int32),
    ATTENTION_MAPS,
    source_BS=filled_S[None],
  )
  for name, got_LBNTS, shape in (
    ('weights_LNTS', out.weights_LBNTS, (4, 4)),
    ('cross_LNTS', out.cross_weights_LBNTS, (4, 3)),
    ('encoder_LNTS', out.encoder_weights_LBNTS, (3, 3)),
  ):
    assert kept[name].shape == (2, 2, *shape)
    assert got_LBNTS is not None
    length = shape[1]
    seen_LNTS = np.asarray(got_LBNTS)[:, 0, :, : shape[0]]
    np.testing.assert_allclose(kept[name], seen_LNTS[..., :length], atol=1e-3)
    assert not seen_LNTS[..., length:].any()  # padding
  with pytest.raises(ValueError, match='encoder_decoder needs source_BS'):
    loaded.apply(kept['tokens_T'][None])


@pytest.mark.slow
def test_a_trained_model_is_asked_for_translations(
  trained: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  def said(*words: str) -> str:
    code = main(['launch.py', *words], flags.FlagValues(), '')
    out = capsys.readouterr()
    return f'{code} {out.out}{out.err}'.strip()

  target = f'--generate={trained}:t'
  assert said(target, '--prompt=go 1', '--prompt=go go 2') == (
    '0 geh geh 1\ngeh geh geh 2'
  )
  assert 'must be given: a text to translate' in said(target)
  assert 'top_k=2: has no effect on a translation' in said(
    target, '--prompt=go 1', '--top_k=2'
  )
  assert 'seed=3: draws nothing of a translation' in said(
    target, '--prompt=go 1', '--seed=3'
  )
  greedy = target, '--prompt=go 1', '--beam=1', '--length_penalty=2'
  assert 'make --beam larger' in said(*greedy)
  assert 'has 20 tokens, and the trial reads 1 to 11' in said(
    target, f'--prompt={"go " * 20}'
  )
  with pytest.raises(DataError, match='does not go on with a text'):
    generate_texts(load(trained, 't'), ['go'], Generation(1))
