"""The ablation table: rows with differences and verdicts.

It is made of records, and written as text, JSON, CSV, Markdown and LaTeX.

Imports: claims, messages, planning, statistics.
"""
