"""Runs one trial through the loop, for tests that look at its result."""

import dataclasses

from train import loop
from train.parallel import Layout
from train.trial import Hooks, Options, Result, Trial

QUIET = Hooks(
  progress=lambda progress: None,
  ended=lambda trial, result: None,
  warn=lambda line: None,
  stop_requested=lambda: False,
)


def run(
  trial: Trial, options: Options, layout: Layout, hooks: Hooks = QUIET
) -> Result:
  """Trains one trial to its end, and returns its result."""
  results: list[Result] = []
  keep = dataclasses.replace(
    hooks, ended=lambda trial, result: results.append(result)
  )
  loop.run(iter([trial]), options, layout, keep)
  (result,) = results
  return result
