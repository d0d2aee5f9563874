"""The HTML report: geometry of its charts, its pictures, its templates.

Imports: claims, experiments, messages, planning, rows, table.
"""
