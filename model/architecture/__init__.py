"""The architecture as one value: every choice of a model.

Also the rules of which choices go together, and the parameters that they have.

Imports: attention, attention.normalizers, attention.outputs,
  attention.projections, attention.scores, backends, core, layers, position.
"""
