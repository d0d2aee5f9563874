"""What a task is, and what tasks share.

Windows of text, tables of sentences, buckets, padding. Each file of the folders
in it adds a member of the union.

Imports: core, data, data.splits, data.tables, optim, text.
"""
