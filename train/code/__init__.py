"""Which definitions of the project a trial runs, read from the sources.

Imports: nothing of train.
"""
