"""Decides what every step computes: who is admitted, who decodes, whose prompt is read, who is
preempted, and which blocks of the KV cache they use.

Owns sequences, slots and blocks. Pure: no clock (time is an argument), no asyncio, no messages; it
knows neither text nor what a shard is.
"""
