"""From what a client wants its answer to look like to a grammar that the shards enforce.

Owns the bounds of a grammar and its compilation, which happens in threads of its own; knows nothing
of HTTP, of the dialects' spellings or of models. A grammar is enforced to the end or refused here.
"""
