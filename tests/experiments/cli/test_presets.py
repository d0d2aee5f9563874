"""What an experiment sets makes way for what is typed; help on topics."""

from typing import Any

import pytest

from experiments.questions.discover import discover
from experiments.rows.base import make_base
from experiments.rows.halving import rungs
from helpers.commands import run
from model.core.field import FieldError, variants
from model.core.field import variant_list as many
from train.config.config import Config
from train.flags.schema import flag_specs, override

pytestmark = pytest.mark.usefixtures('empty_folder')

# What an experiment sets. -----------------------------------------------------

LADDER = discover()['ladder']
GIVES_WAY = {
  ('--model=classifier', '--task=most_frequent'): (
    'ladder sets --tie_embeddings=false, which has no effect with '
    '--model=classifier'
  ),
  ('--experiment=translation', '--task=text', '--only=base'): (
    'translation sets --model=encoder_decoder, which cannot learn --task=text'
  ),
}


@pytest.mark.parametrize('argv', GIVES_WAY, ids=' '.join)
def test_what_an_experiment_sets_gives_way_and_this_is_said(
  argv: tuple[str, ...], accepted: Any
) -> None:
  out = accepted(*argv)
  assert GIVES_WAY[argv] in out
  assert 'left out, ' in out


def test_rows_that_nobody_asked_for_are_left_out(
  accepted: Any, refused: Any
) -> None:
  argv = ('--experiment=translation', '--task=text')
  out = accepted(*argv)
  assert "row 'no cross-attention': --model.cross_attention=false" in out
  assert '(2 rows' in out
  only = refused(*argv, '--only=no cross-attention')
  assert '--model.cross_attention=false: has no effect' in only
  asked = refused(*argv, '--ablate=model.cross_attention=false')
  assert "row 'model.cross_attention=false'" in asked


KEPT = {
  ('--microbatches=16',): '--experiment=ladder sets --batch_size=8',
  ('--experiment=translation', '--model=decoder'): (
    '--experiment=translation sets --task=translation'
  ),
  ('--experiment=nanogpt', '--num_heads=3'): (
    '--experiment=nanogpt sets --d_model=128'
  ),
  ('--smoke', '--num_heads=3'): '--smoke sets --d_model=16',
}


@pytest.mark.parametrize('argv', KEPT, ids=' '.join)
def test_what_is_typed_never_gives_way(
  argv: tuple[str, ...], refused: Any
) -> None:
  assert KEPT[argv] in refused(*argv)


def test_who_types_a_preset_means_it(refused: Any) -> None:
  argv = ('--model=classifier', '--task=most_frequent')
  line = refused(*argv, '--tie_embeddings=false')
  assert '--tie_embeddings=false: has no effect with --model=classifier' in line


def test_a_base_is_what_is_typed_over_what_the_experiment_sets() -> None:
  base, notes = make_base(LADDER, {'steps': '7'}, smoke=False)
  assert notes == ()
  assert base == override(LADDER.base, {'steps': '7'})
  tiny, _ = make_base(LADDER, {'steps': '7'}, smoke=True)
  assert tiny == override(LADDER.base, {**LADDER.smoke, 'steps': '7'})


ADAPTS = (
  ('--mask=causal,window',),
  ('--ablate=mask=causal,window',),
  ('--mask=causal,window', '--mask.window=40'),
  ('--halving=3', f'--sweep=clip={" ".join(map(str, range(1, 11)))}'),
  ('--experiment=multi30k', '--task=text', '--model=decoder'),
)


@pytest.mark.parametrize('argv', ADAPTS, ids=lambda a: ' '.join(a)[:50])
def test_smoke_adapts(argv: tuple[str, ...], accepted: Any) -> None:
  accepted('--smoke', *argv)


def test_smoke_fits_every_choice() -> None:
  """Whatever of the architecture is chosen, the tiny sizes do not refuse it."""
  for path, leaf in flag_specs(Config).items():
    choices = variants(leaf.hint) | many(leaf.hint)
    for tag in choices if '.' not in path else ():
      typed = {path: f'causal,{tag}' if path == 'mask' else tag}
      try:
        make_base(LADDER, typed, smoke=False)
      except FieldError:
        continue  # refused anyway
      make_base(LADDER, typed, smoke=True)


@pytest.mark.parametrize(
  ('steps', 'every', 'rows', 'eta'),
  [(4, 1, 9, 3), (4, 2, 9, 3), (100, 40, 9, 3), (9, 5, 4, 2), (1, 1, 3, 3)],
)
def test_halving_gives_advice_that_helps(
  steps: int, every: int, rows: int, eta: int
) -> None:
  with pytest.raises(FieldError) as caught:
    rungs(steps, every, rows, eta)
  words = caught.value.rule.replace(',', '').split()
  value = int(words[words.index('to') + 1])
  if '--steps' in caught.value.rule.split('raise')[-1] and (
    'raise' in caught.value.rule
  ):
    steps = value
  else:
    assert 0 < value < every
    every = value
  assert rungs(steps, every, rows, eta)


# Help. ------------------------------------------------------------------------

HELP = {
  '--help=position': ('--position=learned', 'rope: Rotary', '--position.theta'),
  '--help=position.theta': ('--position.theta=10000.0', 'Base of the wave'),
  '--help=rope': ('--position=rope', 'Su et al. 2021', '--position.theta'),
  '--help=position=rope': ('Su et al. 2021',),
  '-h=optimization': ('--learning_rate=0.003', 'ladder sets 0.003'),
  '--help=none': ('--position=none', '--norm=none'),
  '--help=sweep': ('--sweep=...',),
  '--version': ('Ablax 0.', 'jax ', 'Python 3.'),
}


@pytest.mark.parametrize('word', HELP)
def test_help_of_a_topic(word: str, capsys: pytest.CaptureFixture[str]) -> None:
  assert run(word) == 0
  out = capsys.readouterr().out
  assert all(part in out for part in HELP[word]), out
  lines = out.splitlines()
  assert len(lines) < 100
  assert [line for line in lines if line != line.rstrip()] == []
  assert max(map(len, lines)) <= 80


def test_help_shows_the_values_of_the_experiment(
  capsys: pytest.CaptureFixture[str],
) -> None:
  assert run('--help=trial', '--experiment=nanogpt') == 0
  out = capsys.readouterr().out
  assert '--batch_size=12\n' in out
  assert '(nanogpt sets 12; --experiment=train has 16)' in out


def test_help_of_nothing(refused: Any) -> None:
  assert 'did you mean position?' in refused('--help=positon')
