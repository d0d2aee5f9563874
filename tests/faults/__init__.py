"""Kills, damage, full disks, broken streams, bad data, and other versions."""
