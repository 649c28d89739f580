"""Sixty schemas and more, from a boolean to recursive definitions: what a model that knows nothing
and one that knows English say under them, at temperature 1, is valid by `jsonschema`.

The schemas (`schemas/schemas.json`) bound their texts and lists, so that every answer ends.
"""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import text_generation_demo
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.source import JsonSchemaGrammar
from tokenizers import Tokenizer

from tests.fakes.byte_tokenizer import EOS, SPECIAL_TOKENS, save_byte_tokenizer
from tests.shard.checkpoints import write_checkpoint
from tests.shard.engines import BLOCK_SIZE, running_shard, warmup_request
from tests.shard.step_script import StepScript, sampling

SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "schemas" / "schemas.json").read_text(encoding="utf-8")
)
SEEDS = (1, 2)
# Numbers and fractions of a second may have any number of digits, and a model may never tire of a
# recursion.
MAX_UNFINISHED = 6


@dataclass(frozen=True)
class Model:
    path: Path
    eos_id: int
    # Enough for every answer but endless numbers.
    max_new_tokens: int

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.path / "tokenizer.json"))


@pytest.fixture(params=["random weights", "demo"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    if request.param == "demo":
        path = Path(text_generation_demo.__file__).parent / "model"
        eos_ids = json.loads((path / "generation_config.json").read_text())["eos_token_id"]
        return Model(path, eos_ids[0], max_new_tokens=120)
    write_checkpoint(tmp_path, vocab_size=264)
    save_byte_tokenizer(tmp_path)
    return Model(tmp_path, SPECIAL_TOKENS.index(EOS), max_new_tokens=380)


async def compiled(schema: Any) -> str:
    with closing(GrammarCompiler()) as grammars:
        return await grammars.compile(JsonSchemaGrammar(schema))


def answers(model: Model, grammars: list[str], seed: int) -> list[str | None]:
    """One answer for each grammar, all in one batch; None for one that does not end."""
    tokenizer = model.tokenizer
    prompt = tokenizer.encode("Answer:").ids
    num_slots = len(grammars)
    script = StepScript(block_size=BLOCK_SIZE)
    for slot, grammar in enumerate(grammars):
        noise = sampling(do_sample=True, seed=1000 * seed + slot)
        script.admit(slot, prompt, sampling=noise, grammar=grammar)
    script.step(dict.fromkeys(range(num_slots), len(prompt)))
    script.decode(range(num_slots), model.max_new_tokens - 1)
    warmup = warmup_request(
        eos_token_ids=[model.eos_id],
        max_slots=num_slots,
        max_step_tokens=num_slots * len(prompt),
        max_total_tokens=model.max_new_tokens + len(prompt),
    )
    with running_shard(model.path, warmup=warmup) as shard:
        found = script.play(shard.step)
    texts: list[str | None] = []
    for slot in range(num_slots):
        ids = found[slot]
        end = ids.index(model.eos_id) if model.eos_id in ids else None
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        texts.append(None if end is None else text)
    return texts


def test_there_are_sixty_schemas_that_are_schemas() -> None:
    assert len(SCHEMAS) >= 60
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("seed", SEEDS)
async def test_answers_are_valid(model: Model, seed: int) -> None:
    grammars = [await compiled(schema) for schema in SCHEMAS.values()]
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    unfinished = []
    for (name, schema), text in zip(SCHEMAS.items(), answers(model, grammars, seed), strict=True):
        if text is None:
            unfinished.append(name)
            continue
        try:
            # RFC 3339 allows a second 60 in any minute, the checker knows when there were some.
            judged = text.replace(":60", ":59") if "time" in name else text
            jsonschema.validate(json.loads(judged), schema, format_checker=formats)
        except (jsonschema.ValidationError, ValueError) as error:
            pytest.fail(f"{name}: {text!r}: {error}")
    assert len(unfinished) <= MAX_UNFINISHED, unfinished
