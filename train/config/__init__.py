"""One trial as one value: its configuration.

Also what its metrics are of, and the digest of the code that it runs.

Imports: code, core, files, flags, measurements, optim, starts, tasks,
  tasks.texts, text.
"""
