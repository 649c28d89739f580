"""Prints the greedy answers to a fixed list of prompts.

python -m text_generation_demo.samples
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from text_generation_demo import MODEL_DIR
from text_generation_demo.chat_template import render_chat
from text_generation_demo.corpus.document import Message, Tool, assistant, system, user
from text_generation_demo.generation import GreedyGenerator

WEATHER_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "format": {
                    "type": "string",
                    "enum": ["celsius", "fahrenheit"],
                    "description": "The temperature unit to use.",
                },
            },
            "required": ["location", "format"],
        },
    },
}
WEATHER_CALL: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_0",
            "type": "function",
            "function": {
                "name": "get_current_weather",
                "arguments": '{"location": "Oslo", "format": "celsius"}',
            },
        }
    ],
}


@dataclass(frozen=True)
class Sample:
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)


CHAT_SAMPLES = (
    Sample([user("What is deep learning?")]),
    Sample([system("You are a helpful assistant."), user("What is deep learning?")]),
    Sample([user("Count to 10")]),
    Sample([user("Please count from 7 to twelve!")]),
    Sample([user("hi, what is the capital of norway")]),
    Sample([user("why do servers use a kv cache?")]),
    Sample([user("What is 8 + 7?")]),
    Sample([system("You are a pirate."), user("What is a GPU?")]),
    Sample([system("Answer in one word."), user("What is the capital of Japan?")]),
    Sample([system("Always answer in uppercase."), user("What is the opposite of hot?")]),
    Sample([system("Your name is Marvin."), user("What is your name?")]),
    Sample([user("Give me a JSON object with name and age of a person.")]),
    Sample([user("Turn this into JSON: Sarah is 34 years old.")]),
    Sample([user("Give me the colour green with its hex code as JSON.")]),
    Sample([user("I saw a puppy a cat and a raccoon during my bike ride in the park.")]),
    Sample([user("What is the weather like in Brooklyn, New York?")], [WEATHER_TOOL]),
    Sample([user("How warm is it in Oslo? In fahrenheit.")], [WEATHER_TOOL]),
    Sample([user("What is machine learning?")], [WEATHER_TOOL]),
    Sample(
        [
            user("What is the weather like in Oslo?"),
            WEATHER_CALL,
            {
                "role": "tool",
                "tool_call_id": "call_0",
                "content": '{"temperature": -3, "sky": "snowy"}',
            },
        ],
        [WEATHER_TOOL],
    ),
    Sample(
        [
            user("Hello, my name is Alice."),
            assistant("Nice to meet you, Alice!"),
            user("What is my name?"),
        ]
    ),
    Sample(
        [
            user("What is the capital of France?"),
            assistant("The capital of France is Paris."),
            user("And of Italy?"),
        ]
    ),
    Sample([user("Tell me a story about a fox.")]),
    Sample([user("Who will win the next election in Peru?")]),
)
RAW_SAMPLES = (
    "What is deep learning?",
    "Deep learning is",
    "Once upon a time",
    "My name is Olivier and I",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    generator = GreedyGenerator(parser.parse_args().model)
    prompts = [render_chat(s.messages, s.tools, add_generation_prompt=True) for s in CHAT_SAMPLES]
    answers = generator.answers([*prompts, *RAW_SAMPLES], max_new_tokens=160)
    for sample, answer in zip(CHAT_SAMPLES, answers[: len(prompts)], strict=True):
        for message in sample.messages:
            print(f"{message['role']}: {message['content'] or '(tool call)'}")
        print(f"{'(with tools) ' if sample.tools else ''}-> {answer}\n")
    for prompt, answer in zip(RAW_SAMPLES, answers[len(prompts) :], strict=True):
        print(f"raw: {prompt}\n-> {answer!r}\n")


if __name__ == "__main__":
    main()
