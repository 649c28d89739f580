"""Grammars: which tokens may come next in the outputs that must follow one.

Owns a matcher for every slot that has a grammar; knows neither models nor scores. Only rank 0
samples, so only rank 0 has any. llguidance does the parsing; it is imported here alone.
"""
