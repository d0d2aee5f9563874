"""From a command to trials, before anything is created.

Rows become configurations that are checked, matched in size, costed and laid
out on devices.

Imports: claims, experiments, messages, record, rows.
"""
