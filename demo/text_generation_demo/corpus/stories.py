"""Short stories assembled from parts, so that longer texts can be asked for."""

from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.data_file import phrasings, read_data
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.split import Split, choose_phrasing

_ASKS = phrasings("stories", "asks")
_ASKS_ABOUT = phrasings("stories", "asks_about")


def story(rng: Random, animal: str) -> str:
    parts = read_data("stories")
    slots = {
        "name": names.person(rng),
        "animal": animal,
        "friend": rng.choice([other for other in parts["animals"] if other != animal]),
        "place": rng.choice(parts["places"]),
        "thing": rng.choice(parts["things"]),
    }
    ways = rng.sample(parts["ways"], rng.randint(1, 3))
    sentences = [rng.choice(parts["openings"]), rng.choice(parts["wishes"]), *ways]
    sentences += [rng.choice(parts["finds"]), rng.choice(parts["endings"])]
    return " ".join(sentences).format(**slots)


def storytelling(rng: Random, split: Split) -> Exchange:
    animal = rng.choice(read_data("stories")["animals"])
    asks = _ASKS_ABOUT if rng.random() < 0.6 else _ASKS
    question = choose_phrasing(rng, split, f"story {animal}", asks).format(animal=animal)
    return Exchange(question, story(rng, animal))
