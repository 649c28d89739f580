"""Fields that vLLM, SGLang and llama.cpp have added to OpenAI's routes and that would change the
answer. They are refused by name, so that nobody who comes from there gets another text in silence.
"""

from typing import Any

import msgspec

from text_generation_router.api.errors import ValidationError


class ForeignFields(msgspec.Struct, kw_only=True):
    """Each may have a value that asks for nothing; some clients send those."""

    # vLLM
    allowed_token_ids: Any = None
    bad_words: Any = None
    logits_processors: Any = None
    min_tokens: Any = None
    prompt_embeds: Any = None
    prompt_logprobs: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    skip_special_tokens: Any = None
    thinking_token_budget: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None

    # SGLang
    ebnf: Any = None
    regex: Any = None

    # llama.cpp
    dry_multiplier: Any = None
    dynatemp_range: Any = None
    grammar: Any = None
    json_schema: Any = None
    mirostat: Any = None
    n_predict: Any = None
    n_probs: Any = None
    repeat_penalty: Any = None
    top_n_sigma: Any = None
    xtc_probability: Any = None


# What asks for nothing, beside null, false, 0 and what is empty.
_NOTHING = {"skip_special_tokens": True, "n_predict": -1, "repeat_penalty": 1, "top_n_sigma": -1}
# Where false and 0 ask for something.
_FALSE_COUNTS = ("skip_special_tokens", "prompt_logprobs", "thinking_token_budget")

_STRUCTURED = "`response_format` and `structured_outputs` are"
_INSTEAD = {
    "ebnf": _STRUCTURED,
    "regex": _STRUCTURED,
    "grammar": _STRUCTURED,
    "json_schema": _STRUCTURED,
    "n_predict": "`max_tokens` is",
    "n_probs": "`logprobs` is",
    "repeat_penalty": "`repetition_penalty` is",
}


def refuse_foreign(fields: ForeignFields) -> None:
    """Refuse the first field that asks for something."""
    for name in ForeignFields.__struct_fields__:
        value = getattr(fields, name)
        if value is None or value == _NOTHING.get(name):
            continue
        if value or name in _FALSE_COUNTS:
            instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise ValidationError(f"`{name}` is not supported by this server{instead}", param=name)
