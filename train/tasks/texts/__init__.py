"""Tasks over texts of the user or of a named corpus.

Imports: core, data.tables, tasks, text.
"""
