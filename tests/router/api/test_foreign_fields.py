"""Fields of vLLM, SGLang and llama.cpp: honoured, or refused by name, or asking for nothing.

The bug: all of them were ignored, `grammar` and `stop_token_ids` among them.
"""

from typing import Any

import pytest
from text_generation_router.api.foreign_fields import ForeignFields

from tests.fakes.router_app import running_app

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": "a"},
}
# field: values that ask for nothing, and one that asks for something
FIELDS: dict[str, tuple[list[Any], Any]] = {
    "allowed_token_ids": ([None, []], [5]),
    "bad_words": ([[]], ["a"]),
    "logits_processors": ([[]], ["a.b"]),
    "min_tokens": ([0], 2),
    "prompt_embeds": ([None], "aGk="),
    "prompt_logprobs": ([None], 0),
    "return_token_ids": ([False], True),
    "return_tokens_as_token_ids": ([False], True),
    "skip_special_tokens": ([True], False),
    "thinking_token_budget": ([None], 0),
    "truncate_prompt_tokens": ([None], 5),
    "use_beam_search": ([False], True),
    "ebnf": ([None, ""], 'root ::= "a"'),
    "regex": ([None, ""], "a+"),
    "dry_multiplier": ([0, 0.0], 0.8),
    "dynatemp_range": ([0.0], 0.5),
    "grammar": ([""], 'root ::= "a"'),
    "json_schema": ([None, {}], {"type": "object"}),
    "mirostat": ([0], 2),
    "n_predict": ([-1], 5),
    "n_probs": ([0], 3),
    "repeat_penalty": ([1, 1.0], 1.1),
    "top_n_sigma": ([-1, 0], 1.5),
    "xtc_probability": ([0.0], 0.1),
}


def test_every_field_is_here() -> None:
    assert sorted(FIELDS) == sorted(ForeignFields.__struct_fields__)


@pytest.mark.parametrize("path", BODIES)
async def test_what_would_change_the_answer_is_refused_by_name(path: str) -> None:
    async with running_app() as app:
        for field, (_, asking) in FIELDS.items():
            async with app.session.post(path, json={**BODIES[path], field: asking}) as response:
                error = (await response.json())["error"]
            assert (response.status, error["param"]) == (422, field)
            assert f"`{field}`" in error["message"]
        assert not app.engine.generations


@pytest.mark.parametrize("path", BODIES)
async def test_values_that_ask_for_nothing_pass(path: str) -> None:
    async with running_app() as app:
        for field, (harmless, _) in FIELDS.items():
            for value in harmless:
                async with app.session.post(path, json={**BODIES[path], field: value}) as response:
                    assert response.status == 200, (field, value, await response.text())


@pytest.mark.parametrize("path", BODIES)
async def test_stop_token_ids_and_the_stop_string_in_the_output(path: str) -> None:
    asked = {"stop_token_ids": [7, 9], "include_stop_str_in_output": True, "stop": "b"}
    async with running_app() as app:
        for extra in ({}, asked):
            async with app.session.post(path, json={**BODIES[path], **extra}) as response:
                assert response.status == 200, await response.text()
        plain, wanted = (generation.request for generation in app.engine.generations)
        assert (plain.stop_token_ids, plain.keep_stop_sequence) == (frozenset(), False)
        assert (wanted.stop_token_ids, wanted.keep_stop_sequence) == ({7, 9}, True)
        unknown = {**BODIES[path], "stop_token_ids": [10**6]}
        async with app.session.post(path, json=unknown) as response:
            assert response.status == 422
            assert (await response.json())["error"]["param"] == "stop_token_ids"
