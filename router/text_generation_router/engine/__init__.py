"""Runs things: sends planned steps to the shards, hands their tokens to the streams that wait for
them.

Owns the generations in flight; knows neither HTTP nor JSON. `request` is its contract with the
dialects above.
"""
