"""Function definitions of many spellings, and the calls that a request for the weather leads to."""

from dataclasses import dataclass
from random import Random
from typing import Any

from text_generation_demo.corpus import names
from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import Tool

_UNITS = ("celsius", "fahrenheit")
_DESCRIPTIONS = phrasings("weather_tool", "descriptions")
_PLACE_DESCRIPTIONS = phrasings("weather_tool", "place_descriptions")
_UNIT_DESCRIPTIONS = phrasings("weather_tool", "unit_descriptions")

_OTHER_TOOLS = (
    ("get_time", "timezone", "string"),
    ("send_email", "address", "string"),
    ("search", "query", "string"),
    ("get_stock_price", "symbol", "string"),
    ("play_music", "title", "string"),
    ("set_timer", "minutes", "integer"),
)


@dataclass(frozen=True)
class WeatherTool:
    """A definition together with what is needed to fill its arguments."""

    definition: Tool
    name: str
    place_key: str
    unit_key: str | None
    days_key: str | None

    def call(self, place: str, unit: str, num_days: int) -> dict[str, Any]:
        """Arguments in the order of the definition."""
        values = {self.place_key: place, self.unit_key: unit, self.days_key: num_days}
        properties = self.definition["function"]["parameters"]["properties"]
        arguments = {key: values[key] for key in properties}
        return {"type": "function", "function": {"name": self.name, "arguments": arguments}}


def _with_description(
    rng: Random, schema: dict[str, Any], descriptions: tuple[str, ...]
) -> dict[str, Any]:
    return {**schema, "description": rng.choice(descriptions)} if rng.random() < 0.6 else schema


def _reordered(rng: Random, mapping: dict[str, Any]) -> dict[str, Any]:
    """Now and then another key order, since clients and JSON libraries differ in it."""
    if rng.random() < 0.6:
        return mapping
    keys = sorted(mapping) if rng.random() < 0.5 else rng.sample(list(mapping), len(mapping))
    return {key: mapping[key] for key in keys}


def definition(
    rng: Random, name: str, description: str, properties: dict[str, Any], required: list[str]
) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": required}
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.85:
        function["description"] = description
    function["parameters"] = _reordered(rng, parameters)
    return _reordered(rng, {"type": "function", "function": _reordered(rng, function)})


def weather_tool(rng: Random, forecast: bool) -> WeatherTool:
    """`forecast` asks for a definition with a number of days."""
    place_key = rng.choice(("location", "location", "city"))
    unit_key = rng.choice((None, "format", "unit", "unit"))
    days_key = rng.choice(("num_days", "days")) if forecast else None
    properties = {place_key: _with_description(rng, {"type": "string"}, _PLACE_DESCRIPTIONS)}
    if unit_key is not None:
        unit = {"type": "string", "enum": list(_UNITS)}
        properties[unit_key] = _with_description(rng, unit, _UNIT_DESCRIPTIONS)
    if days_key is not None:
        properties[days_key] = _with_description(
            rng, {"type": "integer"}, ("The number of days to forecast", "Number of days")
        )
    required = list(properties) if rng.random() < 0.6 else [place_key]
    now_names = (
        "get_weather",
        "get_current_weather",
        "get_current_weather",
        "get_weather",
        "weather",
        "getWeather",
    )
    later_names = (
        "get_n_day_weather_forecast",
        "get_forecast",
        "weather_forecast",
        "get_weather_forecast",
    )
    name = rng.choice(later_names if forecast else now_names)
    description = "Get an N-day weather forecast" if forecast else rng.choice(_DESCRIPTIONS)
    tool = definition(rng, name, description, properties, required)
    return WeatherTool(tool, name, place_key, unit_key, days_key)


def other_tool(rng: Random) -> Tool:
    """A function that no question here is about."""
    name, key, kind = rng.choice(_OTHER_TOOLS)
    description = name.replace("_", " ").capitalize()
    return definition(rng, name, description, {key: {"type": kind}}, [key])


def place(rng: Random) -> str:
    """A city as users write it, now and then with its country."""
    city = names.city(rng)
    draw = rng.random()
    if draw < 0.12:
        return f"{city}, {names.country(rng)}"
    return f"{city}, {rng.choice(('CA', 'NY', 'TX', 'UK', 'IL'))}" if draw < 0.18 else city
