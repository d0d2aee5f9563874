"""What is wrong in a command line is said in one line."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.command_lines import assert_refused, shell, tree
from helpers.commands import run

pytestmark = pytest.mark.usefixtures('quick_compilation')

# The arguments, and what the one line must say.
MISSPELT = {
  ('--learning_rat=1',): ('--learning_rat', 'did you mean learning_rate?'),
  ('--position.thet=5',): ('--position.thet', 'did you mean position.theta?'),
  ('--worker', '2'): ('--worker', 'did you mean workers?'),
  ('--sweeep=steps=1 2',): ('--sweeep', 'did you mean sweep?'),
  ('--position=rop',): ('--position=rop', 'rope', 'did you mean rope?'),
  ('--log_to=csv,wandbe',): ('--log_to=wandbe', 'did you mean wandb?'),
  ('--mask=causal,ful',): ('--mask', 'did you mean full?'),
  ('--decay=matrix',): ('--decay=matrix', 'did you mean matrices?'),
  ('--task.corpus=shakespear',): ('did you mean shakespeare?',),
  ('--sweep=learning_rat=1 2',): ('--sweep', 'did you mean learning_rate?'),
  ('--ablate=positon=rope',): ('--ablate', 'did you mean position?'),
  ('--ablate=position=rop',): ('did you mean rope?', "row 'position=rop'"),
  ('--experiment=lader',): ('--experiment', 'did you mean ladder?'),
  ('--only=bas',): ('--only=bas', 'did you mean base?'),
  ('--metric=val_los',): ('--metric=val_los', 'did you mean val_loss?'),
  ('--ablate=position=rope', '--only=position=rop'): (
    'did you mean position=rope?',
  ),
}
MISTYPED = {
  ('--num_layers=two',): ('--num_layers=two', 'integer'),
  ('--num_layers=2.5',): ('--num_layers=2.5', 'integer'),
  ('--num_layers=',): ('--num_layers=', 'integer'),
  ('--num_layers=none',): ('--num_layers=none', 'integer'),
  ('--learning_rate=fast',): ('--learning_rate=fast', 'number'),
  ('--position=rope', '--position.theta=big'): ('--position.theta=big',),
  ('--tie_embeddings=maybe',): ('--tie_embeddings=maybe', 'true|false'),
  ('--smoke=maybe',): ('--smoke=maybe', 'true|false'),
  ('--seeds=many',): ('--seeds=many', 'integer'),
  ('--checkpoint_seconds=soon',): ('--checkpoint_seconds=soon', 'number'),
  ('--sweep=steps=5 ten',): ('--steps=ten', 'integer', "row 'steps=ten'"),
  ('--help=perhaps',): ('help', 'perhaps'),
  ('--steps',): ('steps',),
  ('--flagfile=absent.txt',): ('absent.txt',),
}
OUT_OF_BOUNDS = {
  ('--num_layers=0',): ('--num_layers=0', 'at least 1'),
  ('--steps=-1',): ('--steps=-1', 'at least 0'),
  ('--steps=99999999999',): ('--steps=99999999999', 'at most'),
  ('--dropout_residual=1.5',): ('--dropout_residual=1.5', 'at most'),
  ('--label_smoothing=2',): ('--label_smoothing', 'at most 1'),
  ('--learning_rate=-1e-3',): ('--learning_rate=-0.001', 'at least 0'),
  ('--learning_rate=nan',): ('--learning_rate=nan', 'finite'),
  ('--learning_rate=inf',): ('--learning_rate=inf', 'finite'),
  ('--weight_decay=1e999',): ('--weight_decay=inf', 'finite'),
  ('--sweep=learning_rate=1e-3 nan',): ('finite', "row 'learning_rate=nan'"),
  ('--seeds=0',): ('--seeds=0', 'at least 1'),
  ('--seed=-1',): ('--seed=-1', 'at least 0'),
  ('--seed=2147483646', '--seeds=5'): ('--seed', '2147483647'),
  ('--devices=0',): ('--devices=0', 'at least 1'),
  ('--keep_checkpoints=0',): ('--keep_checkpoints=0', 'at least 1'),
  ('--checkpoint_seconds=-1',): ('--checkpoint_seconds', 'at least 0'),
}
IMPOSSIBLE = {
  ('--d_model=64', '--num_heads=5'): (
    '--num_heads=5',
    '--d_model=64',
    'try --num_heads=4',
  ),
  ('--batch_size=16', '--microbatches=3'): (
    '--microbatches=3',
    '--batch_size=16',
  ),
  ('--position=sinusoidal', '--d_model=9', '--num_heads=3'): (
    '--d_model=9',
    'even',
  ),
  ('--position.theta=5',): (
    '--position.theta=5',
    '--position=learned',
    'belongs to --position=',
    'rope',
  ),
  ('--ablate=position.theta=5',): ('--position.theta', 'has no effect', 'row'),
  ('--optimizer.momentum=0.5',): ('--optimizer=adamw', '--optimizer=muon|sgd'),
  ('--mask=causal,full',): ('--mask=causal,full', 'no effect', 'drop one'),
  ('--mask=causal,causal',): ('--mask=causal,causal', 'once'),
  ('--mask=full',): ('--mask=full', 'causal'),
  ('--log_to=csv,csv',): ('--log_to=csv,csv', 'once'),
  ('--log_to=none,csv',): ('--log_to=none,csv', 'no effect', 'drop it'),
  ('--log_to.project=x',): ('--log_to.project=x', '--log_to=wandb'),
  ('--task.path=../inputs/good.txt', '--task.corpus=pydoc'): (
    'no effect beside --task.path',
  ),
  ('--projections=raw', '--head_dim=3'): ('--head_dim=3', 'raw'),
  ('--freeze=^nothing/',): ('--freeze=^nothing/', 'embedding/token'),
  ('--freeze=(',): ('--freeze=(', 'regular expression'),
  ('--ablate=position',): ('--ablate=position', 'FIELD=VALUE'),
  ('--ablate=',): ('--ablate=', 'FIELD=VALUE'),
  ('--ablate=position=rope sgd',): ('--ablate', 'FIELD=VALUE'),
  ('--ablate=steps=1 steps=2',): ('--ablate', 'steps'),
  ('--ablate=seed=3',): ('--ablate', 'seed'),
  ('--sweep=seed=1 2',): ('--sweep', 'seed'),
  ('--sweep=learning_rate',): ('--sweep', 'FIELD=VALUE'),
  ('--sweep=learning_rate= ',): ('--sweep', 'FIELD=VALUE'),
  ('--sweep=steps=1 2', '--sweep=steps=3'): ('--sweep', 'swept twice'),
  ('--d_model=32', '--ablate=d_model=33'): ('--num_heads=4', "row 'd_model"),
  ('stray',): ('stray', 'not a flag', '--NAME=VALUE'),
  ('--steps=3', 'a.txt'): ('a.txt', '--NAME=VALUE'),
  ('--shard=0/2',): ('--shard=0/2', 'from 1 to N'),
  ('--shard=3/2',): ('--shard=3/2', 'from 1 to N'),
  ('--shard=1',): ('--shard=1', 'must be I/N'),
  ('--shard=1/2', '--merge=a'): ('--shard=1/2', 'beside --merge'),
  ('--shard=1/2', '--tune=learning_rate=1e-3 1e-2'): ('--shard=1/2', '--tune'),
  ('--merge= ',): ('--merge', 'directories'),
  ('--merge="a',): ('--merge', 'quotation'),
  ('--workers=0',): ('--workers=0', 'at least 1'),
  ('--devices=8', '--batch_size=12'): (
    '--batch_size=12',
    '8 devices',
    'try --batch_size=16',
  ),
  ('--devices=9',): ('--devices=9', 'there are 8', '=9'),
  ('--metric=bleu',): (
    '--metric=bleu',
    "--task=text of row 'base' measures",
    'try val_loss|val_accuracy|best_val_loss|train_loss',
  ),
  ('--metric=diverged_at',): ('--metric=diverged_at', 'measures'),
}
UNREADABLE = {
  ('--task.path=../inputs/absent.txt',): ('absent.txt', 'does not exist'),
  ('--task.path=../inputs/empty.txt',): ('empty.txt', 'is empty'),
  ('--task.path=../inputs/binary.txt',): ('binary.txt', 'binary', 'UTF-8'),
  ('--task.path=../inputs/latin.txt',): ('latin.txt', 'not UTF-8'),
  ('--task.path=../inputs/hollow',): ('hollow', 'no file'),
  ('--task.path=../inputs/short.txt', '--seq_len=32'): (
    'short.txt',
    '--seq_len=32',
  ),
  ('--task.path=../inputs/good.txt', '--seq_len=3000'): (
    'good.txt',
    '--seq_len=3000',
    'smaller --seq_len',
  ),
  ('--ablate=task.path=../inputs/absent.txt',): ('absent.txt',),
  ('--task.path=' + 'a' * 300,): ('aaa',),
  ('--init_from=nowhere',): ('--init_from=nowhere', 'WORKDIR:TRIAL'),
  ('--init_from=nowhere:base',): ('--init_from=nowhere:base', 'nowhere'),
  ('--evaluate=nowhere',): ('--evaluate=nowhere', 'WORKDIR:TRIAL'),
  ('--evaluate=nowhere:base',): ('nowhere', 'not a working directory'),
}
BAD = MISSPELT | MISTYPED | OUT_OF_BOUNDS | IMPOSSIBLE | UNREADABLE


@pytest.mark.parametrize('argv', BAD, ids=lambda argv: ' '.join(argv)[:60])
def test_one_line_says_what_is_wrong(
  argv: Sequence[str],
  here: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  # Were it not refused, it would train for minutes.
  monkeypatch.setattr('experiments.run.engine.run_plan', lambda *_: 0)
  before = tree(here.parent)
  # To --evaluate the workdir would be one more flag without effect.
  new = () if argv[0].startswith('--evaluate') else ('--workdir=new',)
  code = run(*argv, *new)
  assert_refused(code, *capsys.readouterr(), *BAD[tuple(argv)])
  assert tree(here.parent) == before


@pytest.mark.parametrize('argv', [('--num_heads=5',), ('--seed=x',)], ids=str)
def test_default_workdir_is_not_made_either(
  argv: Sequence[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert_refused(run(*argv), *capsys.readouterr())
  assert not list(here.iterdir())


REAL = (
  ('--positon=rope', '--workdir=new'),
  ('--task.path=../inputs/binary.txt', '--workdir=new'),
  ('--num_heads=5',),
)


@pytest.mark.parametrize('argv', REAL, ids=' '.join)
def test_real_process_refuses_in_one_line(
  argv: Sequence[str], here: Path
) -> None:
  done = shell(*argv)
  assert_refused(done.returncode, done.stdout, done.stderr)
  assert not list(here.iterdir())


def test_a_line_break_in_a_value_does_not_break_the_line(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert_refused(run('--position=ro\npe'), *capsys.readouterr(), '--position')
  assert not list(here.iterdir())
