"""Questions that the model shall answer with an honest "I do not know that"."""

from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.data_file import read_data
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.restyle import restyle
from text_generation_demo.corpus.split import Split, phrasings_of


def unknown(rng: Random, split: Split) -> Exchange:
    """Held-out questions ask about things that were never trained."""
    data = read_data("unknown")
    things = phrasings_of("unknown things", tuple(data["things"]), split)
    people = phrasings_of("unknown people", tuple(data["people"]), split)
    surname = names.person(rng)
    question = rng.choice(data["questions"]).format(
        thing=rng.choice(things),
        thing2=rng.choice(things),
        person=rng.choice(people) if rng.random() < 0.4 else f"{names.person(rng)} {surname}",
        place=names.city(rng),
        place2=names.city(rng),
        year=rng.randint(1500, 2025),
        number=rng.randint(100, 9999),
    )
    return Exchange(restyle(rng, question) if split is Split.TRAIN else question, data["answer"])
