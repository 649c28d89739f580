"""Small changes of a question that do not change its answer."""

from random import Random

from text_generation_demo.corpus.data_file import phrasings


def restyle(rng: Random, question: str) -> str:
    """Another case, no final punctuation, or a few polite words around the question."""
    style = rng.random()
    if style < 0.50:
        return question
    if style < 0.60:
        return question.lower()
    if style < 0.70:
        return question.rstrip("?.!")
    if style < 0.77:
        return question.rstrip("?.!").lower()
    if style < 0.82:
        return question.title()
    if style < 0.84:
        return question.upper()
    if style < 0.93:
        return rng.choice(phrasings("restyle", "before")) + question
    return question + rng.choice(phrasings("restyle", "after"))
