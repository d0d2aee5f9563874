"""The error of a command that cannot be carried out."""


class CommandError(ValueError):
  """The command cannot be carried out; its text says why and what to do."""
