"""Rows of texts: parallel files, CSV, JSON lines, tables of other libraries.

Imports: core, data.
"""
