"""The specification: loops of every variant, and what holds for every choice.

`reference` holds the loops, `conformance` which choices go together, `covering`
few configurations that hold all of them, `checks` what holds for each.
"""
