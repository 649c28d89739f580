"""A grammar applies to the answer after the reasoning: a model of random weights, whose tokenizer
has the marks as tokens of their own, behind a chat template that shows them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer

from benchmarks.vocabulary import CHAT_TEMPLATE, write_tokenizer

VOCAB_SIZE = 512
MARKS = ("<think>", "</think>")
MARK_IDS = (VOCAB_SIZE - 2, VOCAB_SIZE - 1)
TEMPLATE = (
    "{#- <think> and </think> -#}" + CHAT_TEMPLATE + "{% if enable_thinking %}<think>\n{% endif %}"
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def thinker(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("thinker")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, VOCAB_SIZE - len(MARKS), 1024)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    assert tuple(map(tokenizer.token_to_id, MARKS)) == MARK_IDS
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    path = folder / "template.json"
    path.write_text(json.dumps(settings))
    with launch("--model-id", str(folder), "--tokenizer-config-path", str(path)) as found:
        yield found


@pytest.mark.parametrize("is_open", [True, False], ids=["the template opens", "the model opens"])
def test_the_answer_after_the_reasoning_follows_the_schema(thinker: Any, is_open: bool) -> None:
    thoughts = []
    with openai.OpenAI(base_url=f"{thinker.base_url}/v1", api_key="-", max_retries=0) as client:
        for seed in range(4):
            options: Any = {
                "model": "tgi",
                "messages": [{"role": "user", "content": "Tell me about a person."}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
                },
                # All tokens are about as likely; the marks come every tenth time.
                "logit_bias": {str(mark_id): 4 for mark_id in MARK_IDS},
                "seed": seed,
                "max_tokens": 600,
                "extra_body": {"chat_template_kwargs": {"enable_thinking": is_open}},
            }
            whole = client.chat.completions.create(**options)
            message, usage = whole.choices[0].message, whole.usage
            assert whole.choices[0].finish_reason == "stop"
            jsonschema.validate(json.loads(message.content), SCHEMA)
            reasoning = getattr(message, "reasoning_content", None) or ""
            assert MARKS[1] not in reasoning
            assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
            deltas = [
                chunk.choices[0].delta
                for chunk in client.chat.completions.create(**options, stream=True)
            ]
            assert "".join(delta.content or "" for delta in deltas) == message.content
            streamed = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
            assert "".join(streamed) == reasoning
            thoughts.append(reasoning)
    assert any(thoughts)
