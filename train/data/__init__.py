"""Files of text: read block by block, and downloaded once.

Imports: core, files.
"""
