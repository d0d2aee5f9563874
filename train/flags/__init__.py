"""Records as flags: one field, one flag, one entry of `--help`.

Imports: nothing of train.
"""
