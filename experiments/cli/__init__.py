"""The command line: it parses flags, has everything checked, and acts.

Imports: experiments, messages, planning, questions, record, results, rows, run.
"""
