"""Starts things: prepares the weights, spawns shards and router, watches them, drains them.

Knows processes, signals and logs; imports neither torch nor aiohttp.
"""
