"""Weights on their way into a shard: found or fetched, converted once, checked, read per rank.

The package itself imports nothing: fetching must not pay for torch.
"""
