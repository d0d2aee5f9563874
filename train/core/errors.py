"""The error for data that cannot be used."""


class DataError(ValueError):
  """Data cannot be used; the message names the file, the problem and a fix."""
