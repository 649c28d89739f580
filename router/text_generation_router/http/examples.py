"""A request for each route that takes one: what /docs begins with. A test sends them all."""

from collections.abc import Mapping
from typing import Any

_QUESTION = "What is deep learning?"
_MESSAGES = [{"role": "user", "content": _QUESTION}]
_CHAT = {"messages": _MESSAGES, "max_tokens": 50}
_GENERATE = {"inputs": _QUESTION, "parameters": {"max_new_tokens": 50, "details": True}}

EXAMPLES: Mapping[str, Any] = {
    "/v1/chat/completions": {"model": "tgi", **_CHAT},
    "/v1/completions": {"model": "tgi", "prompt": "Deep learning is", "max_tokens": 50},
    "/v1/responses": {"model": "tgi", "input": _QUESTION, "max_output_tokens": 50},
    "/v1/messages": {"model": "tgi", **_CHAT},
    "/v1/messages/count_tokens": {"model": "tgi", "messages": _MESSAGES},
    "/generate": _GENERATE,
    "/generate_stream": _GENERATE,
    "/": _GENERATE,
    "/tokenize": {"inputs": _QUESTION},
    "/chat_tokenize": {"messages": _MESSAGES},
    "/invocations": _GENERATE,
    "/vertex": {"instances": [{"inputs": _QUESTION, "parameters": {"max_new_tokens": 50}}]},
    "/v2/models/{model}/versions/{version}/infer": {
        "inputs": [{"name": "prompt", "data": [_QUESTION]}],
        "parameters": {"max_new_tokens": 50},
    },
}
