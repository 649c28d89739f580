"""What a grammar can be refused for."""


class GrammarError(ValueError):
    """A grammar cannot be enforced, or not within bounds; the text names what is wrong with it."""
