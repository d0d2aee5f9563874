"""What is written to a working directory.

Records, metrics and checkpoints, so that they survive a kill and show it if
they were changed.

Imports: core, flags.
"""
