"""From a corpus to what is trained on and what is judged.

Splits, the overlap of the two, token ids.

Imports: code, core, data, data.tables, files, text.
"""
