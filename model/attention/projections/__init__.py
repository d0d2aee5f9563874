"""What queries, keys and values are made of, and how they are cut into heads.

Imports: attention.scores, core.
"""
