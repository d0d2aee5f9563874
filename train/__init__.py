"""How a transformer is trained.

A step, the program made of it, the loop that runs it, the trial that it belongs
to.

Imports: code, config, core, devices, files, flags, measurements, optim,
  programs, tasks, text.
"""
