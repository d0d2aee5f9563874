"""Experiments: each file defines one, as `EXPERIMENT`.

A theme of many may have a folder.

Imports: claims, experiments.
"""
