"""What a working directory holds beside its runs.

The ledger of trials, files of flags, the environment that it ran in.

Imports: messages.
"""
