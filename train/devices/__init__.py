"""Devices and cores.

How work is divided among them, where arrays lie, and how the host reads ahead.

Imports: nothing of train.
"""
