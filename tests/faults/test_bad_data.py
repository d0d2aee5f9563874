"""Bad data from the command line: one line of error, or a counted skip."""

import gzip
import itertools
import pathlib

import pytest
from absl import flags

import launch
from experiments.cli import main as cli

pytestmark = pytest.mark.usefixtures('quick_compilation')

ENGLISH = [f'a dog {n} runs' for n in range(1, 21)]
GERMAN = [f'ein Hund {n} rennt' for n in range(1, 21)]
PAIRS = [f'{en}\t{de}' for en, de in zip(ENGLISH, GERMAN, strict=True)]
LABELS = [f'text {n}\t{"ab"[n % 2]}' for n in range(1, 21)]
OBJECTS = [
  f'{{"text": "row {n}", "label": "{"ab"[n % 2]}"}}' for n in range(1, 21)
]
SMALL = ('--experiment=train', '--seeds=1', '--steps=1', '--seq_len=16')
SMALL = (*SMALL, '--d_model=16', '--batch_size=4', '--workdir=new')
TASKS = {
  'text': ('--task=text', '--task.path=a.txt'),
  'folder': ('--task=text', '--task.path=folder'),
  'packed': ('--task=text', '--task.path=a.txt.gz'),
  'lines': ('--task=translation', '--model=encoder_decoder'),
  'tsv': ('--task=translation', '--model=encoder_decoder'),
  'labels': ('--task=classification', '--model=classifier'),
  'jsonl': ('--task=classification', '--model=classifier'),
}
TABLES = {
  'lines': ('--task.data=lines', '--task.data.train=a'),
  'tsv': ('--task.data=tsv', '--task.data.train=a.tsv'),
  'labels': ('--task.data=tsv', '--task.data.train=a.tsv'),
  'jsonl': ('--task.data=jsonl', '--task.data.train=a.jsonl'),
}


def joined(lines: list[str], changes: dict[int, str | bytes]) -> bytes:
  """Returns a file of lines, of which some, counted from 1, are others."""
  found = [changes.get(number, line) for number, line in enumerate(lines, 1)]
  return b''.join(
    (line.encode() if isinstance(line, str) else line) + b'\n' for line in found
  )


def parallel(changes: dict[int, str | bytes]) -> dict[str, bytes]:
  return {'a.en': joined(ENGLISH, changes), 'a.de': joined(GERMAN, {})}


def command(
  kind: str, files: dict[str, bytes], extra: tuple[str, ...] = ()
) -> int:
  """Returns the exit code of a run on these files."""
  pathlib.Path('folder').mkdir()
  for name, content in files.items():
    pathlib.Path(name).write_bytes(content)
  words = ['launch.py', *SMALL, *TASKS[kind], *TABLES.get(kind, ()), *extra]
  return cli.main(words, flags.FlagValues(), launch.__doc__ or '')


HELD = ('--task.data.validation=b.tsv',)
REFUSED = {
  'text absent': ('text', {}, ['a.txt', 'does not exist', 'give']),
  'text empty': ('text', {'a.txt': b''}, ['a.txt', 'is empty', 'give']),
  'text short': (
    'text',
    {'a.txt': b'abc'},
    ['a.txt', '2 tokens', '--seq_len=16', 'smaller'],
  ),
  'text of one character': (
    'text',
    {'a.txt': b'a'},
    ['a.txt', 'train part has 0 tokens', 'give'],
    ('--task.tokenizer=word',),
  ),
  'text blank': (
    'text',
    {'a.txt': b' ' * 999},
    ['a.txt', 'train part has 0 tokens', 'give'],
    ('--task.tokenizer=word',),
  ),
  'text of no name': (
    'text',
    {'a.txt': b'abc ' * 99},
    ['--task.path= is empty', 'give'],
    ('--task.path=',),
  ),
  'text of a name that is no UTF-8': (
    'text',
    {},
    [r"'--task.path=caf\udce9'", 'is not UTF-8', 'rename'],
    ('--task.path=caf\udce9',),
  ),
  'text of which nothing is hidden': (
    'text',
    {'a.txt': b'abc ' * 99},
    ['--eval_examples=1', 'nothing', '--seq_len=1', 'larger'],
    (
      '--task=mlm',
      '--model=encoder',
      '--task.rate=0.01',
      '--eval_examples=1',
      '--seq_len=1',
    ),
  ),
  'text binary': ('text', {'a.txt': b'abc\0' * 99}, ['a.txt', 'zero byte']),
  'text no UTF-8': (
    'text',
    {'a.txt': b'one\ntwo\nthr\xffe\n'},
    ['a.txt', 'byte 11 is 0xff', 'line 3', 'convert'],
  ),
  'folder empty': ('folder', {}, ['folder', 'holds no file', 'give']),
  'folder of hidden files': (
    'folder',
    {'folder/.a': b'abc'},
    ['folder', 'holds no file'],
  ),
  'folder of empty files': (
    'folder',
    {'folder/a.txt': b'', 'folder/b.txt': b''},
    ['folder', 'is empty'],
  ),
  'folder no UTF-8': (
    'folder',
    {'folder/a.txt': b'abc ' * 99, 'folder/b.txt': b'\n\xfe'},
    ['folder/b.txt', 'byte 1 is 0xfe', 'line 2'],
  ),
  'packed torn': (
    'packed',
    {'a.txt.gz': gzip.compress(b'abc' * 99)[:-9]},
    ['a.txt.gz', 'not a whole gzip', 'again'],
  ),
  'lines absent': ('lines', {}, ['a.en', 'does not exist', 'give']),
  'lines one absent': (
    'lines',
    {'a.en': joined(ENGLISH, {})},
    ['a.de', 'does not exist', 'give'],
  ),
  'lines out of reach': (
    'lines',
    {},
    ['xxx', 'cannot be read', 'too long', 'give'],
    (f'--task.data.train={"x" * 300}',),
  ),
  'lines without a token': (
    'lines',
    {
      'a.en': joined([*map(chr, range(14, 31))], {}),
      'a.de': b'\x02\n' * 17,
    },
    ['a:', 'no token in any source of its train part', 'give'],
    ('--task.tokenizer=wordpiece',),
  ),
  'lines evaluated too long': (
    'lines',
    parallel({19: 'so ' * 17}),
    ['--eval_examples=1', 'nothing', '--seq_len=16', 'larger'],
    ('--eval_examples=1', '--task.split=tail'),
  ),
  'lines in buckets without a token': (
    'lines',
    parallel({}),
    ['--task.buckets=17', 'at most --seq_len=16', 'buckets=16'],
    ('--task.buckets=17',),
  ),
  'lines empty': (
    'lines',
    {'a.en': b'', 'a.de': b''},
    ['a:', 'no row to use', 'give'],
  ),
  'lines unequal': (
    'lines',
    {'a.en': joined(ENGLISH, {}), 'a.de': joined(GERMAN[:-1], {})},
    ['a.en has 20', 'a.de has 19', 'line n'],
  ),
  'lines no UTF-8': (
    'lines',
    parallel({3: b'd\xffg'}),
    ['a.en', '0xff', 'line 3', 'convert'],
  ),
  'lines all too long': (
    'lines',
    parallel({n: 'so ' * (n + 16) for n in range(1, 21)}),
    ['a:', 'no row of its train part fits --seq_len=16', 'larger'],
  ),
  'tsv absent': ('tsv', {}, ['a.tsv', 'does not exist', 'give']),
  'tsv empty': ('tsv', {'a.tsv': b''}, ['a.tsv', 'no row to use', 'give']),
  'tsv no UTF-8': (
    'tsv',
    {'a.tsv': joined(PAIRS, {4: b'a\tb\xff'})},
    ['a.tsv', '0xff', 'line 4', 'convert'],
  ),
  'tsv few columns': (
    'tsv',
    {'a.tsv': joined(PAIRS, {5: 'a dog ein Hund'})},
    ['a.tsv: line 5', '1 columns, not 2', "'a dog ein Hund'", 'tab'],
  ),
  'tsv many columns': (
    'tsv',
    {'a.tsv': joined(PAIRS, {5: 'a\tb\tc'})},
    ['a.tsv: line 5', '3 columns, not 2', 'source, target'],
  ),
  'tsv columns of one name': (
    'tsv',
    {'a.tsv': joined(['source\ttarget\tsource', *['a\tb\tc'] * 20], {})},
    ['a.tsv', 'has 2 columns source', 'source, target, source'],
    ('--task.data.header',),
  ),
  'tsv one row': (
    'tsv',
    {'a.tsv': joined(PAIRS[:1], {})},
    ['a.tsv', 'leaves no row to evaluate on', 'give more'],
  ),
  'labels unknown': (
    'labels',
    {'a.tsv': joined(LABELS, {}), 'b.tsv': b'x\ta\n\ta\ny\tzebra\n'},
    ['b.tsv: row 3', "'zebra'", '(a, b)', 'mend it'],
    HELD,
  ),
  'labels of one name': (
    'labels',
    {'a.tsv': b'x\ta\n' * 20},
    ['a.tsv', "the label 'a'", 'give'],
  ),
  'jsonl absent': ('jsonl', {}, ['a.jsonl', 'does not exist', 'give']),
  'jsonl empty': ('jsonl', {'a.jsonl': b''}, ['a.jsonl', 'no row', 'give']),
  'jsonl no UTF-8': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {2: b'{"text": "\xff"}'})},
    ['a.jsonl', '0xff', 'line 2', 'convert'],
  ),
  'jsonl no JSON': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {6: '{"text": "x"'})},
    ['a.jsonl: line 6 is not JSON', 'character 13', 'mend'],
  ),
  'jsonl of a long number': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {6: b'{"text": ' + b'9' * 5000 + b'}'})},
    ['a.jsonl: line 6 cannot be read as JSON', '4300 digits', 'mend'],
  ),
  'jsonl of deep lists': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {6: b'[' * 100_000})},
    ['a.jsonl: line 6 cannot be read as JSON', 'mend'],
  ),
  'jsonl no object': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {6: '["x", "a"]'})},
    ['a.jsonl: line 6 is list, not an object'],
  ),
  'jsonl no field': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {7: '{"text": "x", "lable": "a"}'})},
    ['a.jsonl: line 7 has no label (text, lable)', '--task.data.keys'],
  ),
  'jsonl no text': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {7: '{"text": null, "label": "a"}'})},
    ['a.jsonl: line 7: text is NoneType, not text', '--task.data.keys'],
  ),
  'jsonl half a character': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {7: '{"text": "\\ud800", "label": "a"}'})},
    ['a.jsonl: line 7: text holds half a character', 'd800', 'mend'],
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused_in_one_line(
  case: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  kind, files, parts, *extra = REFUSED[case]
  assert command(kind, files, *extra) == 2
  printed = capsys.readouterr()
  assert printed.out == ''
  assert printed.err.count('\n') == 1
  for part in parts:
    assert part in printed.err
  assert not pathlib.Path('new').exists()


COUNTED = {
  'folder with an empty file': (
    'folder',
    {'folder/a.txt': b'abc ' * 99, 'folder/b.txt': b''},
    '1 empty files',
  ),
  'folder with hidden files': (
    'folder',
    {'folder/a.txt': b'abc ' * 99, 'folder/.a': b'a', 'folder/.b': b'b'},
    '2 hidden names, links to folders and the like left out',
  ),
  'lines without a token': (
    'lines',
    parallel({3: '\x01', 9: '\x01'}),
    '2 texts without a token',
    ('--task.tokenizer=wordpiece',),
  ),
  'labels': (
    'labels',
    {'a.tsv': joined([*LABELS, *LABELS], {40: 'x\tb', 3: 'y\tc'})},
    '3 labels, the most frequent of the latter on 75.00% of them',
    ('--task.split=tail',),
  ),
  'lines empty': ('lines', parallel({3: '', 9: ' '}), '2 with an empty text'),
  'lines too long': (
    'lines',
    parallel({3: 'so ' * 17, 20: 'so ' * 17}),
    'longer than --seq_len=16: 1 rows to train on, 1 rows to evaluate on',
    ('--task.split=tail',),
  ),
  'tsv empty': (
    'tsv',
    {'a.tsv': joined(PAIRS, {5: 'a dog\t'})},
    '1 with an empty text',
  ),
  'jsonl empty lines': (
    'jsonl',
    {'a.jsonl': joined(OBJECTS, {5: '', 6: '{"text": "", "label": "a"}'})},
    '2 with an empty text',
  ),
}


@pytest.mark.parametrize('case', COUNTED)
def test_left_out_and_counted(
  case: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  kind, files, part, *extra = COUNTED[case]
  assert command(kind, files, (*itertools.chain(*extra), '--plan')) == 0
  assert part in ' '.join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_what_a_vocabulary_lacks_is_said(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """Words that a trial has never seen: of another text, and of a prompt."""
  monkeypatch.chdir(tmp_path)
  content = {'a.txt': b'abc def ghi\n' * 99, 'b.txt': b'abc xyz\n' * 99}
  assert command('text', content, ('--task.tokenizer=word',)) == 0
  capsys.readouterr()

  def run(*words: str) -> str:
    argv = ['launch.py', *words]
    assert cli.main(argv, flags.FlagValues(), launch.__doc__ or '') == 0
    printed = capsys.readouterr()
    assert printed.out.count('\n') == 1
    return printed.err

  other = run('--evaluate=new:base', '--task.path=b.txt')
  assert 'data: b.txt: ' in other
  assert '% unknown' in other
  generate = ('--generate=new:base', '--new_tokens=3')
  prompt = run(*generate, '--prompt=abc xyz')
  assert prompt == '--prompt=abc xyz: 1 of its 2 tokens are <unk>\n'
  assert run(*generate, '--prompt=abc def') == ''
