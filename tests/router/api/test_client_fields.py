"""Every field of today's `openai` and `anthropic` packages is honoured, refused by name, or cannot
change an answer; none is dropped in silence.
"""

from dataclasses import replace
from typing import Any

import pytest
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming as ChatParams,
)
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from tests.fakes.router_app import running_app

# About storage, accounting, priority and caches of a provider: the same tokens come either way.
HARMLESS = {
    "cache_control": {"type": "ephemeral"},
    "metadata": {"user_id": "u"},
    "prediction": {"type": "content", "content": "Hello"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "auto",
    "speed": "fast",
    "store": False,
    "user": "u",
    "user_profile_id": "u",
    "workspace_id": "w",
}
# Each has tests of its own where its dialect is tested.
SAMPLING = {"frequency_penalty", "logit_bias", "n", "presence_penalty", "seed", "stop", "model"}
SAMPLING |= {"temperature", "top_p", "stream", "stream_options", "max_tokens"}
CHAT_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
MESSAGES_PROMPT = {"messages", "model", "system", "thinking", "tools", "tool_choice"}
MESSAGES_PROMPT |= {"output_config"}

DIALECTS: dict[str, tuple[Any, dict[str, Any], set[str], dict[str, Any]]] = {
    # path: typed parameters, the least request, honoured fields, refused fields with a value
    "/v1/chat/completions": (
        ChatParams,
        {"messages": [{"role": "user", "content": "x"}], "seed": 1},
        SAMPLING
        | CHAT_TOOLS
        | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "response_format"}
        | {"reasoning_effort"},
        {
            "audio": {"voice": "v", "format": "mp3"},
            "function_call": {"name": "f"},
            "functions": [{"name": "f"}],
            "modalities": ["text", "audio"],
            "moderation": {"model": "m"},
            "verbosity": "low",
            "web_search_options": {},
        },
    ),
    "/v1/completions": (
        CompletionCreateParamsNonStreaming,
        {"prompt": "x", "seed": 1},
        SAMPLING | {"prompt", "best_of", "echo", "logprobs"},
        {"suffix": "end"},
    ),
    "/v1/responses": (
        ResponseCreateParamsNonStreaming,
        {"input": "x", "temperature": 0},
        CHAT_TOOLS
        | {"input", "instructions", "max_output_tokens", "model", "reasoning", "stream"}
        | {"stream_options", "temperature", "text", "top_logprobs", "top_p"},
        {
            "access_programs": {"a": 1},
            "background": True,
            "background_options": {"completion_window": "2h"},
            "context_management": [{"type": "compaction"}],
            "conversation": "c",
            "image": {"detail": "low"},
            "include": ["file_search_call.results"],
            "max_tool_calls": 3,
            "moderation": {"model": "m"},
            "previous_response_id": "r",
            "prompt": {"id": "p"},
            "truncation": "auto",
        },
    ),
    "/v1/messages": (
        MessageCreateParamsNonStreaming,
        {
            "model": "m",
            "max_tokens": 5,
            "temperature": 0,
            "messages": [{"role": "user", "content": "x"}],
        },
        # Its sampling fields left the package; they are honoured still.
        MESSAGES_PROMPT | {"max_tokens", "stop_sequences", "stream"},
        {
            "container": "c",
            "diagnostics": {"previous_message_id": "m"},
            "inference_geo": "eu",
        },
    ),
    "/v1/messages/count_tokens": (
        MessageCountTokensParams,
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        MESSAGES_PROMPT,
        {},
    ),
}


@pytest.mark.parametrize("path", DIALECTS)
def test_no_field_is_unaccounted_for(path: str) -> None:
    parameters, _, honoured, refused = DIALECTS[path]
    known = parameters.__required_keys__ | parameters.__optional_keys__
    accounted = [*honoured, *refused, *(HARMLESS.keys() & known)]
    assert sorted(known) == sorted(accounted)


@pytest.mark.parametrize("path", DIALECTS)
async def test_refused_fields_are_named(path: str) -> None:
    _, body, _, refused = DIALECTS[path]
    async with running_app() as app:
        for field, value in refused.items():
            async with app.session.post(path, json={**body, field: value}) as response:
                text = await response.text()
                assert response.status == (400 if "messages" in path else 422), field
                assert f"`{field}`" in text, (field, text)
        assert not app.engine.generations


@pytest.mark.parametrize("path", DIALECTS)
async def test_harmless_fields_change_nothing(path: str) -> None:
    parameters, body, _, _ = DIALECTS[path]
    known = parameters.__required_keys__ | parameters.__optional_keys__
    extra = {field: value for field, value in HARMLESS.items() if field in known}
    async with running_app() as app:
        answers = []
        for sent in (body, {**body, **extra}):
            async with app.session.post(path, json=sent) as response:
                assert response.status == 200, await response.text()
                answers.append(await response.json())
        if app.engine.generations:
            # Without a seed in the dialect each request draws its own.
            first, second = (
                replace(g.request, sampling=replace(g.request.sampling, seed=0))
                for g in app.engine.generations
            )
            assert first == second
        else:
            assert answers[0] == answers[1]
