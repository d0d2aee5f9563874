"""Trained trials, back in Python: parameters and how to apply them."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.backend import Auto
from model.field import FieldError
from model.network import EVERY_HEAD, HeadGates, Source
from model.transformer import Output
from train import code, restore
from train.code import some
from train.config import Config
from train.evaluation import TARGETS, extent, figures
from train.feed import check, evaluation, fed
from train.parallel import Shared, to_host
from train.program import program, signature
from train.records import (
  AGAIN,
  BEGUN,
  read_begun,
)
from train.schema import override, to_flags
from train.step import Params, State, init_state
from train.store import FILE, read_vocabulary
from train.task import Data, DataError, Task
from train.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A trained trial.

  Attributes:
    trial: its id.
    config: what it was trained with.
    vocabulary: what its tokens stand for.
    params: those that are evaluated.
    step: after which they were so.
    data: digest of what it was trained and judged on.
    other_code: what of its code was other, in words.
  """

  trial: str
  config: Config
  vocabulary: Vocabulary
  params: Params
  step: int
  data: str
  other_code: tuple[str, ...] = ()

  @property
  def caveat(self) -> str:
    """Returns that it was trained by other code than is here, if it was."""
    if not self.other_code:
      return ''
    return f'was trained by other code than is here: {some(self.other_code)}'

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
      ValueError: a source is missing, or there is none to read; there are no
        such heads; or tokens beyond --seq_len, where parameters are of single
        positions.
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
    for ids in (ids_BT, *(() if source is None else (source.tokens_BS,))):
      self._check_length(ids.shape[1])
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

  def _check_length(self, length: int) -> None:
    """Raises where positions have no parameters: JAX would take the last."""
    config = self.config
    if length <= config.seq_len:
      return
    arch, dims = config.architecture, config.sizes(self.vocabulary)
    mine = arch.parameter_table(dims)
    longer = arch.parameter_table(dataclasses.replace(dims, seq_len=length))
    ends = [path for path in mine if mine[path].shape != longer[path].shape]
    if ends:
      raise ValueError(
        f'{length} tokens, and {ends[0]} has parameters for '
        f'--seq_len={config.seq_len}: give fewer, or train with others, such '
        'as --position=rope'
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

    Raises:
      DataError: the data do not fit, or are no longer those of the trial.
    """
    config, data = self._data(task, say, everything)
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
    found = {**figures(config, sums), **extent(sums)}
    found |= {'tokens': found[TARGETS], **config.task.measures(data)}
    found |= judged.figures
    return {
      name: math.nan if x is None else float(x) for name, x in found.items()
    }

  def _data(
    self, task: Task | None, say: Callable[[str], None], everything: bool
  ) -> tuple[Config, Data]:
    """Returns what a task is judged with, and on; see `evaluate`."""
    own = task is None or task == self.config.task
    config = self.config
    if task is not None:
      config = dataclasses.replace(config, task=task, eval_examples=None)
    load_data = config.task.load_all if everything else config.task.load
    data = load_data(self.vocabulary)
    if problem := config.misfit(data):
      raise DataError(problem)
    if own and not everything and data.digest != self.data:
      raise DataError(
        f'{data.description.partition(": ")[0]}: is not what trial '
        f'{self.trial} was trained and judged on (sha256 {data.digest[:12]}, '
        f'not {self.data[:12]}): bring that back, or judge all of this by '
        '--task.path or --task.data'
      )
    about = [data.description, config.task.notes(data, config.seq_len)]
    if self._saw(config.task, data, everything):
      about.append(
        'warning: this is the text that the trial was trained on: it has seen '
        'some of what is judged'
      )
    for line in about:
      if line:
        say(f'data: {line}')
    return config, data

  def _saw(self, task: Task, data: Data, everything: bool) -> bool:
    """Returns whether a part of what is judged was trained on, as far as known.

    Args:
      task: of which all is judged, or a part.
      data: these.
      everything: whether it is all.
    """
    own = _parts(self.config.task)
    if not everything:
      return data.digest == self.data and _parts(task) != own
    split = {f'task.{name}': text for name, text in own.items()}
    config = dataclasses.replace(self.config, task=task)
    try:
      as_then = override(config, split).task.load(self.vocabulary)
    except (DataError, FieldError):
      return False
    return as_then.digest == self.data


def _parts(task: Task) -> dict[str, str]:
  """Returns the flags that say what of a text is judged."""
  every = to_flags(task).items()
  return {k: v for k, v in every if k.partition('.')[0] == 'split'}


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
  directory = restore.find(pathlib.Path(workdir), trial)
  about = read_begun(directory)
  try:
    own = override(Config(), about.flags)
  except FieldError as e:
    path = directory / BEGUN
    raise DataError(f'{path}: is of another version ({e}): {AGAIN}') from e
  config = here(own, jax.default_backend())
  vocabulary = read_vocabulary(directory / FILE, about.vocabulary.digest)
  template = init_state(config, config.sizes(vocabulary)).saved
  restored = (restore.best if best else restore.last)(directory, template)
  # On a device, so that functions of it can be compiled.
  params = jax.tree.map(jnp.asarray, State(*restored.tree).evaluated)
  other = _other_code(about.code, own)
  return Loaded(
    about.trial, config, vocabulary, params, restored.step, about.data, other
  )


def _other_code(recorded: Any, config: Config) -> tuple[str, ...]:
  """Returns what of the code of a trial is other than here, in words."""
  whole = code.whole(recorded)
  if code.standing(whole, config) != 'other':
    return ()
  return tuple(code.differences(whole, config)) or ('all of it',)


def here(config: Config, platform: str) -> Config:
  """Returns the configuration, with `auto` for a backend that is not here."""
  arch = config.architecture
  if arch.backend.absent(platform) is None:
    return config
  arch = dataclasses.replace(arch, backend=Auto())
  return dataclasses.replace(config, architecture=arch)
