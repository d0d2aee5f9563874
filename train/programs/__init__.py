"""What is compiled: the step, the state, the program made of them.

Also what a program shows of one example.

Imports: config, core, devices, optim, tasks.
"""
