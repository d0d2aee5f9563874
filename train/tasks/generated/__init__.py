"""Tasks whose examples are drawn from a key: nothing is read from a file.

Imports: core, optim, tasks, text.
"""
