"""What is asked.

Experiments as data, and the flags of a command that are no part of a trial.

Imports: claims.
"""
