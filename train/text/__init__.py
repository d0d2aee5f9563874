"""Vocabularies and tokenizers: what token ids stand for.

Imports: code, core, files, flags.
"""
