"""From the records of a plan to its table, report and kept result.

Also what is to be done with records of other directories or from other code.

Imports: claims, experiments, messages, planning, record, report, rows, table.
"""
