"""The description of a run: its flags, configuration and environment."""

from collections.abc import Sequence

from experiments.planning.plan import Plan
from experiments.planning.row_backends import backends
from experiments.record.environment import describe_environment
from experiments.record.flagfile import flag_file_text
from experiments.record.ledger import write_owner
from train.devices.repeatable import repeatable
from train.files.durable import write_atomically, write_json


def describe_run(plan: Plan, flag_lines: Sequence[str]) -> None:
  """Writes the description of a run: flags, configuration, environment."""
  workdir = plan.workdir
  write_owner(workdir, plan.owner)
  write_atomically(
    workdir / 'flags.txt', flag_file_text(flag_lines, plan.data.digest)
  )
  about = describe_environment(plan.devices)
  about['data'] = {plan.data.description: plan.data.digest}
  device = plan.devices[0]
  about['attention'] = backends(plan.base, plan.rows, device)
  used = '+'.join(about['attention'].values()).split('+')
  about['repeatable'] = repeatable(frozenset(used), device)
  write_json(workdir / 'environment.json', about)
