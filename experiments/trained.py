"""Commands on a trained trial: evaluate it on a text, or let it write."""

import json
from collections.abc import Mapping, Sequence

from experiments.command import Command
from experiments.shown import shown_text
from experiments.streams import warn
from model.field import FieldError, unparse
from train.generate import Generation, continued
from train.load import Loaded, load
from train.schema import changes, override
from train.tasks.translation import Translation
from train.translate import Translator, texts_of
from train.vocabulary import Special

# What a search of the likeliest text takes, in training by --task.NAME.
SEARCHED = ('beam', 'length_penalty')


def evaluate(command: Command, given: Mapping[str, str]) -> None:
  """Evaluates a trial, and prints a line of JSON.

  Args:
    command: with --evaluate=WORKDIR:TRIAL.
    given: all other flags; those of its task evaluate it on other data.
  """
  # The task may be another; its tokens are those of the trial.
  idle = [
    path
    for path in given
    if path.partition('.')[0] != 'task' or path.startswith('task.tokenizer')
  ]
  loaded = _trial('evaluate', command.evaluate, command, idle)
  # Without flags of a task, what its trial was evaluated on: the same figures.
  other = override(loaded.config, given).task if given else None
  names = {path.split('.')[1] for path in given if '.' in path}
  # Of another text, all is new to the trial, unless a part is asked for.
  everything = bool(names & {'path', 'corpus', 'data'}) and 'split' not in names
  figures = loaded.evaluate(other, warn, everything)
  print(json.dumps({'trial': loaded.trial, 'step': loaded.step, **figures}))


def generate(
  command: Command,
  given: Mapping[str, str],
  generation: Generation,
  prompts: Sequence[str],
) -> None:
  """Prints each prompt and what a trial writes after it, or its translation.

  Args:
    command: with --generate=WORKDIR:TRIAL.
    given: flags of the configuration and of its runs; --seed is that of draws.
    generation: how much, and how.
    prompts: what to go on from; a new line if there are none.
  """
  for path, text in given.items():
    if (own := path.removeprefix('task.')) in SEARCHED and path != own:
      raise FieldError(path, text, f'is for training: say --{own}={text}')
  idle = [path for path in given if path != 'seed']
  loaded = _trial('generate', command.generate, command, idle)
  seed = int(given.get('seed', '0'))
  task = loaded.config.task
  if isinstance(task, Translation):
    if 'seed' in given:
      raise FieldError('seed', seed, 'draws nothing of a translation: drop it')
    _translate(loaded, task, generation, prompts)
    return
  if generation.length_penalty is not None:
    raise FieldError(
      'length_penalty',
      generation.length_penalty,
      'compares lengths, and all texts have --new_tokens: drop it',
    )
  if 'seed' in given and (how := _greedy(generation)):
    raise FieldError('seed', seed, f'draws nothing with {how}: drop it')
  prompts = prompts or ['\n']
  for prompt in prompts:
    _say_unknown(loaded, prompt)
  texts = continued(loaded, prompts, generation, seed)
  for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
    if n:
      print('-' * 40)
    print(shown_text(prompt + text))


def _greedy(generation: Generation) -> str | None:
  """Returns the flag by which no token is drawn, if one says so."""
  how = generation.sampling
  for flag, value, draws in (
    ('beam', generation.beam, generation.beam is None),
    ('temperature', how.temperature, how.temperature > 0.0),
    ('top_k', how.top_k, how.top_k != 1),
    ('top_p', how.top_p, how.top_p != 0.0),
  ):
    if not draws:
      return f'--{flag}={unparse(value)}'
  return None


def _translate(
  loaded: Loaded,
  task: Translation,
  generation: Generation,
  prompts: Sequence[str],
) -> None:
  """Prints the translation of each prompt, as in the trial or as given."""
  for name, text in changes(Generation(), generation).items():
    if name not in SEARCHED:
      raise FieldError(
        name, text, 'has no effect on a translation, which is searched: drop it'
      )
  if not prompts:
    raise FieldError('prompt', None, 'must be given: a text to translate')
  for prompt in prompts:
    _say_unknown(loaded, prompt)
  config = loaded.config
  translator = Translator(
    config.architecture,
    config.sizes(loaded.vocabulary),
    loaded.params,
    loaded.vocabulary,
  )
  beam = task.beam if generation.beam is None else generation.beam
  penalty = generation.length_penalty
  if penalty is None:
    penalty = task.length_penalty
  elif beam == 1:
    raise FieldError(
      'length_penalty',
      penalty,
      'compares hypotheses, of which there is one: make --beam larger',
    )
  for text in texts_of(translator, prompts, beam, penalty):
    print(shown_text(text))


def _say_unknown(loaded: Loaded, prompt: str) -> None:
  """Says how much of a prompt the vocabulary lacks, if it does."""
  if Special.UNK not in loaded.vocabulary.specials:
    return
  ids = loaded.encode(prompt)
  if unknown := int((ids == loaded.vocabulary.id_of(Special.UNK)).sum()):
    warn(f'--prompt={prompt}: {unknown} of its {ids.size} tokens are <unk>')


def _trial(
  flag: str, target: str | None, command: Command, idle: Sequence[str]
) -> Loaded:
  """Returns the trial that a flag names; other flags must have an effect."""
  workdir, colon, trial = (target or '').rpartition(':')
  if not colon:
    raise FieldError(flag, target, 'must be WORKDIR:TRIAL')
  others = [
    path
    for path in changes(Command(), command)
    if path not in (flag, 'experiment')
  ]
  if unused := [*idle, *others]:
    raise FieldError(
      flag, target, f'leaves --{unused[0]} without effect: drop it'
    )
  loaded = load(workdir, trial)
  if loaded.caveat:
    warn(f'warning: --{flag}={target} {loaded.caveat}')
  return loaded
