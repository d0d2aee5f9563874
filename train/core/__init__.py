"""What all of training stands on.

Metrics, trees of parameters and rules over their paths, the error of data.

Imports: nothing of train.
"""
