"""The base: what an experiment sets, smaller for --smoke, and what is typed.

Who types `--model=classifier` chose a model, not the experiment's
`--tie_embeddings=false`: what an experiment sets and does not apply gives way,
and this is said.  What is typed never gives way.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping

from experiments.command import Command
from experiments.experiment import Experiment
from experiments.rows import Requests, configure, expand, fitting
from experiments.search import make_search
from model.field import FieldError
from train.config import Config
from train.schema import changes, override, to_flags

Check = Callable[[Config], object]

# What the experiment asks about: without it, it would be another one.
QUESTION = ('task',)


def make_base(
  experiment: Experiment,
  typed: Mapping[str, str],
  smoke: bool,
  check: Check = lambda config: None,
) -> tuple[Config, tuple[str, ...]]:
  """Returns the configuration that rows change, and what gave way in it.

  Args:
    experiment: its base is changed.
    typed: flags of the command line.
    smoke: take the tiny sizes of the experiment, as far as they fit.
    check: raises a FieldError where these sizes do not fit the rows.

  Raises:
    FieldError: what is typed breaks a rule; who set the other part is said.
  """
  defaults = to_flags(Config())
  sets = _without(changes(Config(), experiment.base), typed)
  tiny = _without(experiment.smoke, typed) if smoke else {}
  dropped: dict[str, str] = {}

  def make(sizes: Mapping[str, str]) -> Config:
    own = {flag: defaults[flag] for flag in dropped}
    return override(experiment.base, {**own, **sizes, **typed})

  while True:
    try:
      config = make(tiny)
      if tiny:
        check(config)
      break
    except FieldError as e:
      if e.path in tiny:
        tiny = _without(tiny, [e.path])
      elif (fitting := _fitting(tiny, make, check)) is not None:
        tiny = fitting
      elif e.path in sets and e.path in defaults and e.path not in QUESTION:
        if e.path in dropped:
          raise
        dropped[e.path] = e.rule
      else:
        raise _named(e, experiment, sets, tiny) from None
  return config, tuple(
    f'{experiment.name} sets --{flag}={sets[flag]}, which '
    f'{rule.partition(": ")[0]}: left out, --{flag}={defaults[flag]} is taken'
    for flag, rule in dropped.items()
  )


def check_smoke(
  experiment: Experiment, command: Command, requests: Requests, base: Config
) -> None:
  """Raises a FieldError where tiny sizes do not fit rows or --halving."""
  rows = experiment.rows
  if not requests.any:
    rows, _ = fitting(rows, functools.partial(configure, base))
  make_search(base, expand(base, rows, requests), command, requests.tune)


def _without(flags: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
  return {flag: text for flag, text in flags.items() if flag not in {*names}}


def _fitting(
  tiny: Mapping[str, str], make: Callable[..., Config], check: Check
) -> dict[str, str] | None:
  """Returns tiny sizes without one or two that do not fit, if that helps.

  The number of steps, which comes first in experiments, is given up last.
  """
  for count in (1, 2):
    for names in itertools.combinations([*tiny][::-1], count):
      rest = _without(tiny, names)
      try:
        check(make(rest))
      except FieldError:
        continue
      return rest
  return None


def _named(
  error: FieldError,
  experiment: Experiment,
  sets: Mapping[str, str],
  tiny: Mapping[str, str],
) -> FieldError:
  """Returns the error, with who set the flags of its rule that none typed."""
  flags = dict(re.findall(r'--([\w.]+)=([^\s,:;)]+)', error.rule))
  flags.setdefault(error.path, '')
  by_smoke = [flag for flag in flags if flag in tiny]
  own = [flag for flag in flags if flag in sets and flag not in tiny]
  said = [f'--smoke sets --{flag}={tiny[flag]}' for flag in by_smoke]
  said += [
    f'--experiment={experiment.name} sets --{flag}={sets[flag]}' for flag in own
  ]
  if not said:
    return error
  if own:
    said.append('--experiment=train sets nothing')
  return FieldError(
    error.path, error.value, f'{error.rule} ({", ".join(said)})'
  )
