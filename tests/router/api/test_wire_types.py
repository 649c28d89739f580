"""Decoding by property: whatever a client sends is a request or one clear refusal."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.completion_types import CompletionBody
from text_generation_router.api.native_types import CompatGenerateBody, GenerateBody
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.errors import BodyError

BODIES = [GenerateBody, CompatGenerateBody, ChatBody, CompletionBody]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def fields_of(body_type: type) -> st.SearchStrategy[dict[str, Any]]:
    names = list(body_type.__struct_fields__)  # type: ignore[attr-defined]
    parameters = st.dictionaries(
        st.sampled_from(["top_k", "stop", "seed", "details", "grammar", "unknown"]), JSON
    )
    return st.dictionaries(st.sampled_from(names), JSON | parameters, max_size=4)


@pytest.mark.parametrize("body_type", BODIES)
@settings(max_examples=40)
@given(data=st.data())
def test_any_json_is_decoded_or_refused_with_422(body_type: type, data: st.DataObject) -> None:
    body = json.dumps(data.draw(fields_of(body_type) | JSON)).encode()
    try:
        decoded = BodyDecoder(body_type).decode(body)
    except BodyError as error:
        assert error.status == 422
    else:
        again = BodyDecoder(body_type).decode(msgspec.json.encode(decoded))
        assert again == decoded


@pytest.mark.parametrize("body_type", BODIES)
@settings(max_examples=40)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_with_4xx(body_type: type, body: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        BodyDecoder(body_type).decode(body)
    assert caught.value.status in (400, 422)


@settings(max_examples=40)
@given(st.fixed_dictionaries({"inputs": st.text()}), st.dictionaries(st.text(), JSON))
def test_unknown_fields_are_ignored(body: dict[str, Any], extra: dict[str, Any]) -> None:
    extra = {name: value for name, value in extra.items() if name not in ("inputs", "parameters")}
    decoder = BodyDecoder(GenerateBody)
    assert decoder.decode(json.dumps({**extra, **body}).encode()) == decoder.decode(
        json.dumps(body).encode()
    )
