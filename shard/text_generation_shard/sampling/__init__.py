"""Chooses tokens: from the scores of a row to a token id and its log-probability.

Owns the logits processors, the noise and the draw; knows neither models nor sequences. Nothing here
depends on a global random generator or on the rows that happen to share a step.
"""
