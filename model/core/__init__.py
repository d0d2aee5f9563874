"""What all of the model stands on.

Fields of records, parameters as data, the input of a model, side outputs,
dropout.

Imports: nothing of model.
"""
