"""Published values, and the rules that say whether a table reproduces them.

A rule is a pure function of the metrics of a table.

Imports: statistics.
"""
