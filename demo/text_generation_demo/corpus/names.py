"""Names of people and cities, real and invented.

The invented ones teach the model to copy a name instead of choosing one that it knows.
"""

from random import Random

from text_generation_demo.corpus.data_file import read_data


def _invented(rng: Random, num_syllables: int) -> str:
    syllables = read_data("names")["syllables"]
    return "".join(rng.choice(syllables) for _ in range(num_syllables)).capitalize()


def person(rng: Random) -> str:
    if rng.random() < 0.3:
        return _invented(rng, rng.randint(2, 3))
    return str(rng.choice(read_data("names")["people"]))


def city(rng: Random) -> str:
    if rng.random() < 0.35:
        ending = rng.choice(read_data("names")["city_endings"])
        name = f"{_invented(rng, rng.randint(1, 3))}{ending}"
        is_compound = rng.random() < 0.1
        return rng.choice(("San ", "New ", "Port ")) + name if is_compound else name
    return str(rng.choice(read_data("names")["cities"]))


def country(rng: Random) -> str:
    return str(rng.choice(read_data("names")["countries"]))
