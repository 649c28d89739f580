"""Requests for JSON of a known shape.

Where the request names a value, the answer must copy it; where it does not, any plausible value
is right, and `agrees_with_request` accepts it.
"""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from text_generation_demo.corpus import names
from text_generation_demo.corpus.data_file import phrasings, read_data
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.split import Split, choose_phrasing

_VALUES = read_data("json_values")
_COLOURS: dict[str, str] = _VALUES["colours"]
_CITIES: list[tuple[str, str, int]] = _VALUES["cities"]
_FRUITS: list[str] = _VALUES["fruits"]
_ANIMALS: list[str] = _VALUES["animals"]
_HOBBIES: list[str] = _VALUES["hobbies"]
_ACTIVITIES: list[str] = _VALUES["activities"]
_PLACES: list[str] = _VALUES["places"]

_FIELDS: dict[str, Callable[[Random], Any]] = {
    "name": names.person,
    "first_name": names.person,
    "age": lambda rng: rng.randint(1, 90),
    "city": names.city,
    "country": names.country,
    "hobby": lambda rng: rng.choice(_HOBBIES),
    "color": lambda rng: rng.choice(tuple(_COLOURS)),
    "animal": lambda rng: rng.choice(_ANIMALS),
    "fruit": lambda rng: rng.choice(_FRUITS),
    "year": lambda rng: rng.randint(1950, 2025),
    "price": lambda rng: rng.randint(1, 99),
    "count": lambda rng: rng.randint(1, 20),
    "active": lambda rng: rng.random() < 0.5,
    "email": lambda rng: f"{names.person(rng).lower()}@example.com",
}

_FIELD_ASKS = phrasings("json", "field_asks")
_PERSON_ASKS = phrasings("json", "person_asks")
_NAMED_PERSON_ASKS = phrasings("json", "named_person_asks")
_COLOUR_ASKS = phrasings("json", "colour_asks")
_CITY_ASKS = phrasings("json", "city_asks")
_FRUIT_ASKS = phrasings("json", "fruit_asks")
_SEEN_ASKS = phrasings("json", "seen_asks")


def _joined(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _fields(rng: Random, split: Split) -> tuple[str, Any]:
    keys = rng.sample(tuple(_FIELDS), rng.randint(2, 4))
    ask = choose_phrasing(rng, split, "fields", _FIELD_ASKS)
    return ask.format(fields=_joined(keys)), {key: _FIELDS[key](rng) for key in keys}


def _person(rng: Random, split: Split) -> tuple[str, Any]:
    value = {"name": names.person(rng), "age": rng.randint(1, 90)}
    asks = _PERSON_ASKS if rng.random() < 0.3 else _NAMED_PERSON_ASKS
    subject = "person" if asks is _PERSON_ASKS else "named person"
    return choose_phrasing(rng, split, subject, asks).format(**value), value


def _colour(rng: Random, split: Split) -> tuple[str, Any]:
    name = rng.choice(tuple(_COLOURS))
    return choose_phrasing(rng, split, name, _COLOUR_ASKS).format(x=name), {
        "name": name,
        "hex": _COLOURS[name],
    }


def _city(rng: Random, split: Split) -> tuple[str, Any]:
    city, country, population = rng.choice(_CITIES)
    value = {"city": city, "country": country, "population": population}
    return choose_phrasing(rng, split, city, _CITY_ASKS).format(x=city), value


def _fruits(rng: Random, split: Split) -> tuple[str, Any]:
    return choose_phrasing(rng, split, "fruits", _FRUIT_ASKS), rng.sample(_FRUITS, 3)


def sighting(rng: Random) -> tuple[str, dict[str, Any]]:
    """A sentence about animals seen on a trip, and the same as an object."""
    animals = rng.sample(_ANIMALS, rng.randint(1, 3))
    activity, place = rng.choice(_ACTIVITIES), rng.choice(_PLACES)
    listed = _joined([f"a {animal}" for animal in animals])
    if len(animals) == 3 and rng.random() < 0.3:
        listed = f"a {animals[0]} a {animals[1]} and a {animals[2]}"
    text = f"I saw {listed} during my {activity} in the {place}."
    value = {
        "location": place,
        "activity": activity,
        "animals_seen": len(animals),
        "animals": animals,
    }
    return text, value


def _seen(rng: Random, split: Split) -> tuple[str, Any]:
    text, value = sighting(rng)
    return choose_phrasing(rng, split, "seen", _SEEN_ASKS).format(text=text), value


def json_shape(rng: Random, split: Split) -> Exchange:
    makers = (_fields, _person, _colour, _city, _fruits, _seen)
    question, value = rng.choices(makers, weights=(25, 25, 14, 12, 8, 16))[0](rng, split)
    return Exchange(question, json.dumps(value, ensure_ascii=False))


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return type(value)


def _named_values(value: Any, request: str) -> list[Any]:
    """The plain values, with those that the request does not name replaced by None."""
    if isinstance(value, dict):
        return [named for item in value.values() for named in _named_values(item, request)]
    if isinstance(value, list):
        return [named for item in value for named in _named_values(item, request)]
    return [value if re.search(rf"\b{re.escape(str(value))}\b", request) else None]


def agrees_with_request(answer: str, expected: str, request: str) -> bool:
    """Whether the answer has the expected fields and types and the values named in the request."""
    wanted = json.loads(expected)
    try:
        given = json.loads(answer)
    except json.JSONDecodeError:
        return False
    if _shape(given) != _shape(wanted):
        return False
    pairs = zip(_named_values(wanted, request), _plain_values(given), strict=True)
    return all(named is None or named == value for named, value in pairs)


def _plain_values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [plain for item in value.values() for plain in _plain_values(item)]
    if isinstance(value, list):
        return [plain for item in value for plain in _plain_values(item)]
    return [value]
