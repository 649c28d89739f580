"""Triton kernels of the operators, for tensors on a GPU.

Each module launches the kernels of one operator, with the arguments of its reference. `library`
says whether they can be used; nothing else here is imported where they cannot.
"""
