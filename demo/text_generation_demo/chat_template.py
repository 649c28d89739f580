"""The chat template that goes into `tokenizer_config.json`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from text_generation_demo.corpus.document import Message, Tool

CHAT_TEMPLATE_FILE = Path(__file__).resolve().parent / "chat_template.jinja"


def _tojson(value: Any) -> str:
    """As transformers has it: key order and all characters are kept."""
    return json.dumps(value, ensure_ascii=False)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment.from_string(CHAT_TEMPLATE_FILE.read_text(encoding="utf-8"))


def render_chat(messages: list[Message], tools: list[Tool], add_generation_prompt: bool) -> str:
    return _template().render(
        messages=messages, tools=tools or None, add_generation_prompt=add_generation_prompt
    )
