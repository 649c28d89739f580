"""Operators: one module each, with one signature for every device.

Know tensors only: no sequence, no model, no rank. This is the one place where the kind of device
may choose an implementation; the torch code here is the reference that runs everywhere.
"""
