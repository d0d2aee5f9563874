"""Devices and cores.

How work is divided among them, where arrays lie, and how the host reads ahead.

Compiled programs are kept here too.

Imports: files.
"""
