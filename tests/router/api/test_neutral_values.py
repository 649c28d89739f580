"""A field's neutral value, OpenAI's default or what asks for nothing, is as if it was not sent.

The bug: `suffix: ""`, `functions: []`, `function_call: "none"` and `mcp_servers: []` were refused.
"""

from typing import Any

import pytest

from tests.fakes.router_app import running_app
from tests.router.api.test_client_fields import DIALECTS

Neutral = dict[str, list[Any]]

OPENAI: Neutral = {
    "frequency_penalty": [0],
    "logit_bias": [{}],
    "max_tokens": [],
    "model": ["tgi"],
    "n": [1],
    "presence_penalty": [0],
    "seed": [],
    "stop": [[]],
    "stream": [False],
    "stream_options": [{}, {"include_usage": False}],
    "temperature": [1, 1.0],
    "top_p": [1, 1.0],
    "user": [""],
}
CHAT: Neutral = OPENAI | {
    "audio": [],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logprobs": [False],
    "max_completion_tokens": [],
    "metadata": [{}],
    "modalities": [["text"]],
    "moderation": [],
    "parallel_tool_calls": [True],
    "prediction": [],
    "prompt_cache_key": [""],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["in-memory"],
    "reasoning_effort": ["medium"],
    "response_format": [{"type": "text"}],
    "safety_identifier": [""],
    "service_tier": ["auto", "default"],
    "store": [False],
    "tool_choice": ["auto", "none"],
    "tools": [[]],
    "top_logprobs": [0],
    "verbosity": ["medium"],
    "web_search_options": [],
}
COMPLETIONS: Neutral = OPENAI | {"best_of": [1], "echo": [False], "logprobs": [], "suffix": [""]}
RESPONSES: Neutral = {
    "access_programs": [],
    "background": [False],
    "background_options": [],
    "context_management": [[]],
    "conversation": [],
    "image": [],
    "include": [[]],
    "instructions": [""],
    "max_output_tokens": [],
    "max_tool_calls": [],
    "metadata": [{}],
    "model": ["tgi"],
    "moderation": [],
    "parallel_tool_calls": [True],
    "previous_response_id": [""],
    "prompt": [],
    "prompt_cache_key": [""],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["in-memory"],
    "reasoning": [{}, {"effort": None, "summary": None}],
    "safety_identifier": [""],
    "service_tier": ["auto", "default"],
    "store": [False],
    "stream": [False],
    "stream_options": [{}, {"include_obfuscation": True}],
    "temperature": [1],
    "text": [{}, {"format": {"type": "text"}, "verbosity": "medium"}],
    "tool_choice": ["auto", "none"],
    "tools": [[]],
    "top_logprobs": [0],
    "top_p": [1],
    "truncation": ["disabled"],
    "user": [""],
}
COUNTED: Neutral = {
    "cache_control": [],
    "mcp_servers": [[]],
    "output_config": [{}],
    "speed": ["standard"],
    "system": ["", []],
    "thinking": [{"type": "disabled"}],
    "tool_choice": [{"type": "auto"}, {"type": "none"}],
    "tools": [[]],
    "user_profile_id": [],
    "workspace_id": [],
}
MESSAGES: Neutral = COUNTED | {
    "container": [],
    "diagnostics": [],
    "inference_geo": [],
    "metadata": [{}, {"user_id": None}],
    "service_tier": ["auto"],
    "stop_sequences": [[]],
    "stream": [False],
    "temperature": [1],
    "top_p": [1],
}
NEUTRAL = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNTED,
}


@pytest.mark.parametrize("path", NEUTRAL)
def test_every_field_is_here(path: str) -> None:
    parameters, body, _, _ = DIALECTS[path]
    known = parameters.__required_keys__ | parameters.__optional_keys__
    assert known <= body.keys() | NEUTRAL[path].keys()


@pytest.mark.parametrize("path", NEUTRAL)
async def test_neutral_values_pass_alone_and_together(path: str) -> None:
    _, body, _, _ = DIALECTS[path]
    together = {field: values[0] for field, values in NEUTRAL[path].items() if values}
    alone = [{field: value} for field, values in NEUTRAL[path].items() for value in (None, *values)]
    async with running_app() as app:
        for fields in (*alone, together):
            async with app.session.post(path, json=body | fields) as response:
                assert response.status == 200, (fields, await response.text())
