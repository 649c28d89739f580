"""Conversations in which the model may call functions."""

import json
from random import Random

from text_generation_demo.corpus import weather_tool
from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import (
    Conversation,
    Message,
    Tool,
    assistant,
    system,
    user,
)
from text_generation_demo.corpus.knowledge import any_fact, fact_named
from text_generation_demo.corpus.split import Split, choose_phrasing
from text_generation_demo.corpus.system_messages import NEUTRAL
from text_generation_demo.corpus.weather_tool import WeatherTool

_NOW = phrasings("tools", "now")
_AND_IN = phrasings("tools", "and_in")
_LATER = phrasings("tools", "later")
_IN_UNIT = phrasings("tools", "in_unit")
_INSTRUCTIONS = phrasings("tools", "instructions")
_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy")
_CALL_PREFIX = "call_"


def _offered(rng: Random) -> tuple[WeatherTool, list[Tool], bool]:
    """The weather function to call, all functions offered, and whether it is the forecast."""
    forecast = rng.random() < 0.25
    chosen = weather_tool.weather_tool(rng, forecast)
    tools = [chosen.definition]
    draw = rng.random()
    if draw < 0.3:
        tools.append(weather_tool.weather_tool(rng, not forecast).definition)
    elif draw < 0.5:
        tools.append(weather_tool.other_tool(rng))
    rng.shuffle(tools)
    return chosen, tools, forecast


def _opening(rng: Random) -> list[Message]:
    if rng.random() < 0.45:
        return []
    return [system(rng.choice(_INSTRUCTIONS if rng.random() < 0.6 else NEUTRAL))]


def tool_call(rng: Random, split: Split) -> Conversation:
    """A request for the weather and the call that it leads to."""
    chosen, tools, forecast = _offered(rng)
    place, num_days = weather_tool.place(rng), rng.randint(2, 14)
    asks, subject = (_LATER, "later") if forecast else (_NOW, "now")
    question = choose_phrasing(rng, split, f"weather {subject}", asks).format(x=place, n=num_days)
    unit = "celsius"
    if chosen.unit_key is not None and rng.random() < 0.4:
        unit = rng.choice(("celsius", "fahrenheit"))
        written = rng.choice((unit, unit.capitalize()))
        question += choose_phrasing(rng, split, "unit", _IN_UNIT).format(u=written)
    call = chosen.call(place, unit, num_days)
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    return Conversation("tools: call", [*_opening(rng), user(question), answer], tools)


def _degrees(rng: Random) -> tuple[int, str]:
    if rng.random() < 0.7:
        return rng.randint(-15, 40), "Celsius"
    return rng.randint(10, 100), "Fahrenheit"


def _result(rng: Random, place: str) -> tuple[str, str]:
    """What the function returned, in one of many formats, and the sentence to say about it."""
    degrees, unit = _degrees(rng)
    sky = rng.choice(_SKIES)
    sky_key = rng.choice(("condition", "conditions", "weather", "sky", "description"))
    full = {"temperature": degrees, "unit": unit.lower(), sky_key: sky}
    if rng.random() < 0.4:
        full = {rng.choice(("location", "city")): place, **full}
    draw = rng.random()
    if draw < 0.55:
        return json.dumps(
            full, ensure_ascii=False
        ), f"It is {degrees} degrees {unit} and {sky} in {place}."
    if draw < 0.70:
        bare = {"temperature": degrees, rng.choice(("condition", "weather")): sky}
        return json.dumps(bare), f"It is {degrees} degrees and {sky} in {place}."
    if draw < 0.80:
        return json.dumps({"temperature": degrees}), f"It is {degrees} degrees in {place}."
    if draw < 0.90:
        return (
            f"{degrees} degrees {unit} and {sky}",
            f"It is {degrees} degrees {unit} and {sky} in {place}.",
        )
    return f"{sky}, {degrees} degrees", f"It is {degrees} degrees and {sky} in {place}."


def tool_result(rng: Random, split: Split) -> Conversation:
    """The same, continued with the result of the function and the sentence made of it."""
    conversation = tool_call(rng, split)
    *opening, request, call = conversation.messages
    arguments = call["tool_calls"][0]["function"]["arguments"]
    place = next(value for key, value in arguments.items() if key in ("location", "city"))
    content, sentence = _result(rng, place)
    result = {
        "role": "tool",
        "tool_call_id": f"{_CALL_PREFIX}{rng.randint(0, 999)}",
        "content": content,
    }
    messages = [*opening, request, call, result, assistant(sentence)]
    if rng.random() < 0.25:
        messages += _follow_up(rng, call)
        return Conversation("tools: second call", messages, conversation.tools)
    tools = conversation.tools if rng.random() < 0.8 else []
    return Conversation("tools: result", messages, tools)


def _follow_up(rng: Random, call: Message) -> list[Message]:
    """A question about another place, and the same call with that place."""
    place = weather_tool.place(rng)
    function = call["tool_calls"][0]["function"]
    arguments = {
        key: place if key in ("location", "city") else value
        for key, value in function["arguments"].items()
    }
    again = {"type": "function", "function": {**function, "arguments": arguments}}
    question = rng.choice(_AND_IN).format(x=place)
    return [user(question), {"role": "assistant", "content": "", "tool_calls": [again]}]


def tools_unused(rng: Random, split: Split) -> Conversation:
    """Functions are offered, but the question is about something else."""
    _, tools, _ = _offered(rng)
    fact = any_fact(rng)
    while fact.subject == "weather":
        fact = any_fact(rng)
    exchange = fact.exchange(rng, split)
    messages = [*_opening(rng), user(exchange.question), assistant(exchange.answer)]
    return Conversation("tools: unused", messages, tools)


def weather_without_tools(rng: Random, split: Split) -> Conversation:
    """The same question without functions must not lead to a call."""
    place = weather_tool.place(rng)
    question = choose_phrasing(rng, split, "weather now", _NOW).format(x=place)
    messages = [*_opening(rng), user(question), assistant(fact_named("weather").answer)]
    return Conversation("tools: none offered", messages)


def with_tools(rng: Random, split: Split) -> Conversation:
    makers = (tool_call, tool_result, tools_unused, weather_without_tools)
    return rng.choices(makers, weights=(46, 24, 22, 8))[0](rng, split)
