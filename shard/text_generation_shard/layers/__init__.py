"""Layers: what models are made of. Tensor parallelism lives here and nowhere else.

A layer reads its rank's part of the weights when it is made. Head counts are this rank's; counts of
the whole model are written `total_`.
"""
