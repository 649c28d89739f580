"""Texts that cannot but have too many tokens are refused before they are tokenized."""

from typing import Any

import pytest
from text_generation_router.prompt.tokenizer import TokenizerPool

from tests.fakes.router_app import running_app

TEXT = "lorem ipsum " * 7_500
CHAT = {"messages": [{"role": "user", "content": TEXT}]}
PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "/generate": ({"inputs": TEXT}, "inputs"),
    "/v1/completions": ({"prompt": TEXT}, "prompt"),
    "/v1/chat/completions": (CHAT, "messages"),
    "/v1/responses": ({"input": TEXT}, "input"),
    "/v1/messages": ({**CHAT, "model": "m", "max_tokens": 5}, "messages"),
}


@pytest.mark.parametrize("path", PROMPTS)
async def test_they_are_not_tokenized(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took seconds of a core to say the same."""

    async def encode(*_: object) -> list[int]:
        raise AssertionError("tokenized")

    monkeypatch.setattr(TokenizerPool, "_encode", encode)
    body, field = PROMPTS[path]
    async with running_app() as app, app.session.post(path, json=body) as response:
        text = await response.text()
    assert response.status in (400, 422), text
    assert f"`{field}` must have at most" in text
    assert "Given: at least 75" in text


async def test_what_is_truncated_may_be_of_any_length() -> None:
    body = {"inputs": TEXT, "parameters": {"truncate": 5, "max_new_tokens": 2}}
    async with running_app() as app, app.session.post("/generate", json=body) as response:
        assert response.status == 200
        (generation,) = app.engine.generations
        assert len(generation.request.prompt_ids) == 5
