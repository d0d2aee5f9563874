"""A trained trial, back from its files: to apply, to evaluate, to write text.

Imports: config, core, devices, files, flags, programs, tasks, text, train.
"""
