"""Which rows a table has.

Those of an experiment, of `--ablate`, of `--sweep`, of a search.

Imports: experiments.
"""
