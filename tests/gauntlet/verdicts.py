"""Simulates tables of no difference, and of one: the rules must not err."""

import random

import simulate
from gauntlet.outcome import Attempt, Outcome


def attempts(tables: int) -> Attempt:
  """Returns the attempts: a setting each, so many tables of it."""
  every = list(simulate.settings())

  def attempt(seed: int) -> Outcome:
    from gauntlet.drive import SEEDS  # which imports this

    run, number = divmod(seed, SEEDS)
    setting = random.Random(run).sample(every, len(every))[number]
    found = simulate.simulate(setting, tables, run)
    if found.broken:  # by chance, once in a thousand: then not again
      found = simulate.simulate(setting, tables, SEEDS + run)
    if found.broken:
      return Outcome('silent', str(found))
    # That few seeds trust the noise to have one mode is said in the table.
    return Outcome('found' if found.exceeds else 'harmless', str(found))

  return attempt
