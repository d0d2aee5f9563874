"""Runs the trials of a plan, in this process or in several.

What is recorded as each trial comes on and ends is here too.

Imports: claims, experiments, messages, planning, record, report, results, rows.
"""
