"""Comparisons with other implementations, where these are installed."""
