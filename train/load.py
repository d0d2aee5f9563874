"""Trained trials, back in Python: parameters and how to apply them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.backend import Auto
from model.network import EVERY_HEAD, HeadGates, Source
from model.transformer import Output
from train.checkpoint import Checkpoints
from train.config import Config
from train.feed import check, evaluation, fed
from train.files import read_lines
from train.parallel import Shared, to_host
from train.program import program, signature
from train.schema import override
from train.step import Params, State, init_state
from train.store import FILE, read_vocabulary
from train.task import DataError, Task
from train.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A trained trial."""

  trial: str
  config: Config
  vocabulary: Vocabulary
  params: Params
  step: int

  def apply(
    self,
    tokens_BT: Any,
    want_weights: bool = False,
    source_BS: Any = None,
    head_gates: HeadGates = EVERY_HEAD,
    segments_BT: Any = None,
  ) -> Output:
    """Returns logits for token ids, and attention weights if asked for.

    Args:
      tokens_BT: token ids; of what an encoder-decoder has written so far,
        <bos> first.
      want_weights: also return those of every attention (see `Output`).
      source_BS: token ids of what an encoder-decoder reads, <eos> last; <pad>
        is seen by nobody.
      head_gates: factors of the outputs of heads.
      segments_BT: document of each token from 1 on, 0 for padding; none is one
        document.

    Raises:
      ValueError: a source is missing, or there is none to read; or there are no
        such heads.
    """
    arch = self.config.architecture
    if arch.model.has_source != (source_BS is not None):
      what = 'needs' if arch.model.has_source else 'reads no'
      raise ValueError(f'a model of --model={arch.model.tag} {what} source_BS')
    source = None
    if source_BS is not None:
      ids_BS = jnp.asarray(source_BS, jnp.int32)
      real_BS = ids_BS != self.vocabulary.id_of(Special.PAD)
      source = Source(ids_BS, real_BS.astype(jnp.int32))
    ids_BT = jnp.asarray(tokens_BT, jnp.int32)
    if segments_BT is None:
      segments_BT = transformer.one_document(arch, ids_BT)
    return transformer.apply(
      arch,
      self.config.sizes(self.vocabulary),
      self.params,
      ids_BT,
      want_weights=want_weights,
      segments_BT=segments_BT,
      head_gates=head_gates,
      source=source,
    )

  def encode(self, text: str) -> np.ndarray:
    """Returns the token ids of a text in the vocabulary of the trial."""
    return self.vocabulary.encode(text)

  def evaluate(
    self,
    task: Task | None = None,
    say: Callable[[str], None] = lambda line: None,
    everything: bool = False,
  ) -> dict[str, float]:
    """Returns loss (nats a token) and accuracy on a task's validation part.

    And what the task says of the model besides, such as BLEU.

    Args:
      task: another text, say; none is what the trial was trained on.
      say: is told what the data are, and what of them is left out.
      everything: evaluate on all of a text, not on a part of it.
    """
    config = self.config
    if task is not None:
      config = dataclasses.replace(config, task=task, eval_examples=None)
    load_data = config.task.load_all if everything else config.task.load
    data = load_data(self.vocabulary)
    if problem := config.misfit(data):
      raise DataError(problem)
    for line in (data.description, config.task.notes(data, config.seq_len)):
      if line:
        say(f'data: {line}')
    device = jax.local_devices()[0]
    layout = Shared((device,))
    check(config, data, None, device)
    on_host = fed(config, data, None, device)
    arrays = evaluation(config, data) if on_host else dict(data.arrays)
    sig, values = signature(config, data, layout, on_host)
    sums = to_host(
      program(sig).evaluate(
        layout.place(self.params), layout.place(values), layout.place(arrays)
      )
    )
    judged = config.task.judge(config.architecture, sig.dims, self.params, data)
    loss, count = float(sums.loss / sums.count), float(sums.count)
    return {
      'val_loss': loss,
      'val_accuracy': float(sums.correct / sums.count),
      'tokens': count,
      'targets': count,
      **config.task.measures(data, loss, count),
      **judged.figures,
    }


def load(workdir: str | pathlib.Path, trial: str, best: bool = False) -> Loaded:
  """Returns a trained trial of a working directory.

  Where its backend cannot run on this machine, `auto` computes the same.

  Args:
    workdir: of the run.
    trial: ROW/SEED, or ROW for its first seed, or the id of a trial or its
      beginning.
    best: the checkpoint with the lowest validation loss, not the last one.

  Raises:
    DataError: there is no such trial, or no whole checkpoint of it.
  """
  directory = find(pathlib.Path(workdir), trial)
  try:
    about = json.loads((directory / 'config.json').read_text())
  except (OSError, ValueError) as e:
    raise DataError(
      f'{directory}: config.json cannot be read: the trial was not begun'
    ) from e
  config = here(override(Config(), about['flags']), jax.default_backend())
  vocabulary = read_vocabulary(directory / FILE, about['vocabulary']['digest'])
  template = init_state(config, config.sizes(vocabulary)).saved
  notes: list[str] = []
  if not (directory / 'checkpoints').is_dir():
    raise DataError(f'{directory}: has no checkpoint yet')
  try:
    checkpoints = Checkpoints(
      directory / 'checkpoints', 1, notes.append, read_only=True
    )
  except ValueError as e:
    raise DataError(f'{directory}: {e}') from e
  try:
    restored = (
      checkpoints.restore_best(template)
      if best
      else checkpoints.restore(template)
    )
  finally:
    checkpoints.close()
  if restored is None:
    raise DataError(f'{directory}: has no whole checkpoint {" ".join(notes)}')
  # On a device, so that functions of it can be compiled.
  params = jax.tree.map(jnp.asarray, State(*restored.tree).evaluated)
  return Loaded(about['trial'], config, vocabulary, params, restored.step)


def here(config: Config, platform: str) -> Config:
  """Returns the configuration, with `auto` for a backend that is not here."""
  arch = config.architecture
  if arch.backend.absent(platform) is None:
    return config
  arch = dataclasses.replace(arch, backend=Auto())
  return dataclasses.replace(config, architecture=arch)


def find(workdir: pathlib.Path, trial: str) -> pathlib.Path:
  """Returns the run directory of a trial named by id, ROW or ROW/SEED."""
  runs = workdir / 'runs'
  ids = sorted(p.name for p in runs.iterdir()) if runs.is_dir() else []
  if not ids:
    raise DataError(f'{workdir}: is not a working directory with trials')
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  named = {
    line['seed']: line['trial']
    for line in read_lines(workdir / 'trials.jsonl')
    if line['row'] == row and (not seed or str(line['seed']) == seed)
  }
  if named:
    return runs / named[min(named)]
  found = [name for name in ids if trial and name.startswith(trial)]
  if len(found) != 1:
    some = ', '.join(found[:8] or ids[:8])
    what = f'{len(found)} trials' if found else 'no trial'
    raise DataError(
      f'{workdir}: has {what} {trial}: there are {some}, or ROW, or ROW/SEED'
    )
  return runs / found[0]
