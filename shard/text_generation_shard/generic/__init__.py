"""The generic path: architectures without a family here run transformers' own modelling code.

transformers computes everything but attention, for which it asks us (`attention`). What a model
does there is found out by asking it (`survey`), and that the answer is right by computing the same
tokens both ways (`self_check`); what cannot be honoured is refused. Nothing outside this package
imports transformers on a serving path, and this package only when it is needed: that takes seconds.
"""
