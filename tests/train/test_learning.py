"""Something is learned: what only attention can learn, within a fixed budget.

Everything may be finite and fall a little while nothing is learned.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from model import transformer
from model.core.inputs import ModelInputs
from model.core.side_output import ATTENTION_MAPS
from model.interfaces import NetworkOutput
from train.config.config import Config
from train.devices.parallel import SharedLayout, to_host
from train.flags.schema import override
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import init_state
from train.tasks.base import Data
from train.text.tokenizer import CharTokenizer

pytestmark = pytest.mark.usefixtures('quick_compilation')

# '(' and 7 letters, then ')' and the same 7.
LETTERS, HALF = 'abcd', 8
# Nats a token: 7 of 16 are new.  Who cannot look back pays for 14.
COPIED = 7 / 16 * math.log(len(LETTERS))
GUESSED = 14 / 16 * math.log(len(LETTERS))

BASE = {
  'seq_len': '32',
  'batch_size': '16',
  'num_layers': '1',
  'd_model': '32',
  'num_heads': '2',
  'position': 'rope',
  'init': 'xavier',
  'steps': '200',
  'warmup_steps': '20',
  'learning_rate': '0.01',
  'weight_decay': '0',
  'eval_examples': '64',
}


@functools.cache
def _data() -> Data:
  draws = np.random.default_rng(0)
  words = [''.join(draws.choice(list(LETTERS), HALF - 1)) for _ in range(4000)]
  text = ''.join(f'({word}){word}' for word in words)
  vocabulary = CharTokenizer().train(lambda: [text])
  ids = vocabulary.encode(text)
  cut = int(0.9 * ids.size)
  # So that validation windows begin with a segment.
  assert cut % (2 * HALF) == 0
  arrays = {'train': ids[:cut], 'validation': ids[cut:]}
  return Data(arrays, vocabulary, 'digest', 'copies')


class Learned(NamedTuple):
  """A trial at its end."""

  config: Config
  params: Any
  val_loss: float


def _learn(flags: Mapping[str, str]) -> Learned:
  config = override(Config(), BASE | flags)
  devices = SharedLayout((jax.local_devices()[0],))
  sig, values = signature(config, _data(), devices)
  state = devices.place(to_host(init_state(config, sig.dims)))
  placed = devices.place(values), devices.place(dict(_data().arrays))
  state, _ = get_program(sig).chunk(state, *placed, np.int32(config.steps))
  assert int(to_host(state.diverged)) == -1
  sums = to_host(get_program(sig).evaluate(state.params, *placed))
  loss = float(sums.loss / sums.count)
  return Learned(config, to_host(state.params), loss)


@pytest.fixture(scope='module')
def learned() -> Learned:
  return _learn({})


def test_a_copy_is_learned(learned: Learned) -> None:
  assert COPIED - 0.02 < learned.val_loss < COPIED + 0.25


def test_attention_finds_what_is_copied(learned: Learned) -> None:
  config, data = learned.config, _data()
  tokens_1T = data.arrays['validation'][None, : 2 * HALF].astype(np.int32)

  @jax.jit
  def forward(params: Any, tokens_BT: jax.Array) -> NetworkOutput:
    dims = config.dims(data.vocabulary.size)
    return transformer.apply(
      config.architecture,
      dims,
      params,
      ModelInputs(tokens_BT),
      wanted=ATTENTION_MAPS,
    )

  out = forward(learned.params, tokens_1T)
  assert out.weights_LBNTS is not None
  weights_NTS = np.asarray(out.weights_LBNTS)[0, 0]
  # Token t + 1 repeats t - 7: that is where the query at t has to look.
  found = [weights_NTS[:, t, t - 7] for t in range(HALF, 2 * HALF - 1)]
  assert np.mean(found, 0).max() > 0.5
  guessed = np.asarray(out.logits_BTV)[0].argmax(-1)
  assert (guessed[HALF : 2 * HALF - 1] == tokens_1T[0, HALF + 1 :]).all()


@pytest.mark.slow
@pytest.mark.parametrize('seed', [1, 2])
def test_a_copy_is_learned_with_other_seeds(seed: int) -> None:
  # The same program: seconds.
  assert _learn({'seed': str(seed)}).val_loss < COPIED + 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    {
      'optimizer': 'muon',
      'learning_rate': '0.02',
      'optimizer.adam_rate': '0.01',
    },
    {
      'optimizer': 'muon',
      'optimizer.factor': 'moonlight',
      'optimizer.adam_rate': 'none',
    },
    {'after_update': 'sphere,lookahead'},
  ],
  ids=['muon', 'moonlight', 'sphere'],
)
def test_a_copy_is_learned_by_other_rules(flags: dict[str, str]) -> None:
  assert _learn(flags).val_loss < COPIED + 0.1


@pytest.mark.slow
def test_without_a_past_it_cannot_be_learned() -> None:
  one = _learn({'seq_len': '1', 'batch_size': '512', 'eval_examples': '2048'})
  assert one.val_loss > GUESSED - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    {'position': 'none'},
    {'freeze': 'attention/'},
    {'projections': 'raw', 'normalizer': 'none'},
  ],
  ids=['no positions', 'frozen attention', 'raw'],
)
def test_without_what_it_takes_it_is_not_learned(
  flags: dict[str, str],
) -> None:
  assert _learn(flags).val_loss > GUESSED - 0.1
