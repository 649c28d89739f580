"""Decides things: parses requests, tokenizes, schedules steps, streams answers.

Owns queue, sequences and cache blocks; knows shards only by the step protocol and never imports
torch.
"""
