"""Models: one file per family, single-rank code that reads like the paper; one line in the
registry.
"""
