"""How evaluation harnesses ask how likely a text is: `echo` with `logprobs`, hardly any output."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

PROMPT = "The sea is"


@pytest.fixture(scope="module")
def scorer(launch: Any) -> Iterator[Any]:
    # In bfloat16 the last bit of a sum decides how a key is rounded, and sums differ in their last
    # bits between a prompt that is read at once and tokens that come one by one.
    with launch("--enable-prefill-logprobs", "--dtype", "float32") as found:
        yield found


@pytest.fixture
def client(scorer: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{scorer.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


def test_the_same_as_in_the_native_dialect(client: openai.OpenAI, scorer: Any) -> None:
    details = scorer.generate(PROMPT, max_new_tokens=1, details=True, decoder_input_details=True)
    prefill = [token["logprob"] for token in details["details"]["prefill"]]
    answer = client.completions.create(
        model="tgi", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0, temperature=0
    )
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert choice.logprobs.token_logprobs == pytest.approx(prefill, abs=1e-4)
    assert (choice.logprobs.token_logprobs[0], choice.logprobs.top_logprobs) == (None, None)
    assert answer.usage.completion_tokens == 0


def test_what_the_model_says_by_itself_is_most_likely(client: openai.OpenAI, scorer: Any) -> None:
    """As lm-eval does it: one token more than asked about, and the greatest of the candidates."""
    said = scorer.generate(
        PROMPT, max_new_tokens=8, details=True, decoder_input_details=True, ignore_eos=True
    )["details"]
    context = [token["id"] for token in said["prefill"]]
    prompts = [
        [*context, *(token["id"] for token in said["tokens"])],
        [*context, *(token["id"] for token in reversed(said["tokens"]))],
    ]
    answer = client.completions.create(
        model="tgi", prompt=prompts, max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1
    )
    is_greedy = []
    for choice, prompt in zip(answer.choices, prompts, strict=True):
        found = choice.logprobs
        assert len(found.tokens) == len(found.text_offset) == len(prompt) + 1
        assert found.top_logprobs[0] is None
        for token, offset in zip(found.tokens[:-1], found.text_offset[:-1], strict=True):
            assert choice.text[offset:].startswith(token)
        scores = found.token_logprobs[len(context) : -1]
        best = [max(top.values()) for top in found.top_logprobs[len(context) : -1]]
        is_greedy.append(scores == best)
        if prompt == prompts[0]:
            expected = [token["logprob"] for token in said["tokens"]]
            assert scores == pytest.approx(expected, abs=1e-3)
    assert is_greedy == [True, False]
