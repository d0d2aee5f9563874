"""The same bits in each run on GPUs: what XLA is asked, what is recorded."""

import pathlib
import types

import jax
import pytest

from helpers.processes import end, start
from train.devices import repeatable as module
from train.devices.repeatable import make_repeatable, repeatable
from train.files.durable import read_intact_lines

FLAG = '--xla_gpu_deterministic_ops'
CARD = types.SimpleNamespace(platform='gpu')
PLAIN = frozenset({'cudnn', 'reference'})


@pytest.mark.parametrize(
  ('given', 'gpu', 'started', 'then'),
  [
    ('', True, False, f'{FLAG}=true'),
    ('--a=1', True, False, f'--a=1 {FLAG}=true'),
    (f'{FLAG}=false', True, False, f'{FLAG}=false'),  # the user's word
    ('', False, False, ''),
    ('', True, True, ''),  # too late
  ],
)
def test_xla_is_asked_before_it_starts(
  given: str,
  gpu: bool,
  started: bool,
  then: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('XLA_FLAGS', given)
  monkeypatch.setattr(module, 'has_nvidia_gpu', lambda: gpu)
  monkeypatch.setattr(module, '_has_started', lambda: started)
  make_repeatable()
  assert module.os.environ['XLA_FLAGS'] == then
  (said,) = {repeatable(PLAIN, CARD)}
  lacks = f'not repeatable: XLA_FLAGS lacks {FLAG}=true'
  assert said == (True if then.endswith('=true') else lacks)


def test_what_is_not_repeatable_is_said(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('XLA_FLAGS', f'{FLAG}=true')
  said = repeatable(frozenset({'tokamax'}), CARD)
  assert isinstance(said, str)
  assert 'tokamax' in said
  monkeypatch.setenv('XLA_FLAGS', '')
  for platform in ('cpu', 'tpu'):
    device = types.SimpleNamespace(platform=platform)
    assert repeatable(frozenset({'reference'}), device) is True


def test_jax_has_started_here() -> None:
  """The tests use devices, so it is too late to ask."""
  jax.devices()
  assert module._has_started()


@pytest.mark.gpu
@pytest.mark.parametrize('backend', ['cudnn', 'chunked', 'reference'])
def test_two_processes_come_to_the_same_bits(
  backend: str, tmp_path: pathlib.Path
) -> None:
  """Attention, scatters of the embedding, and whatever kernels XLA picks."""
  if jax.default_backend() != 'gpu':
    pytest.skip('JAX finds no GPU')
  text = tmp_path / 'text.txt'
  text.write_text(' '.join(str(n * n) for n in range(10_000)))
  records = []
  for name in ('one', 'two'):
    flags = (
      *('--experiment=train', f'--task.path={text}', f'--backend={backend}'),
      *('--dtype=bfloat16', '--seq_len=512', '--head_dim=64', '--steps=20'),
      *('--d_model=64', '--num_heads=2', '--batch_size=4', '--seeds=1'),
      f'--workdir={tmp_path / name}',
    )
    code, _, said = end(start(flags))
    assert code == 0, said
    records.append(read_intact_lines(tmp_path / name / 'trials.jsonl'))
  first, second = ([r['digest'] for r in found] for found in records)
  assert first == second
  assert all(r['repeatable'] is True for r in records[0])
