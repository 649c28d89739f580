"""OpenAI's parameters: defaults, null, and bounds."""

from typing import Any

import msgspec
import pytest
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.openai_sampling import choice_samplings, stop_sequences
from text_generation_router.api.openai_types import SamplingFields
from text_generation_router.engine.request import SamplingParameters

from tests.fakes.router_app import make_limits


def sampling(**fields: Any) -> SamplingParameters:
    return choice_samplings(msgspec.convert(fields, SamplingFields), make_limits())[0]


def test_sampling_is_the_default_and_null_is_absent() -> None:
    nothing = dict.fromkeys(SamplingFields.__struct_fields__)
    assert sampling(**{**nothing, "seed": 1}) == SamplingParameters(do_sample=True, seed=1)
    assert sampling(seed=1) == SamplingParameters(do_sample=True, seed=1)
    assert sampling(**nothing).seed != sampling().seed


def test_every_parameter_arrives() -> None:
    assert sampling(
        temperature=0.5,
        top_p=0.9,
        seed=7,
        presence_penalty=0.4,
        frequency_penalty=-0.5,
        logit_bias={"5": -100, "6": 1.5},
        top_k=4,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
    ) == SamplingParameters(
        do_sample=True,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        presence_penalty=0.4,
        frequency_penalty=-0.5,
        logit_bias=((5, -100.0), (6, 1.5)),
        top_k=4,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
    )


@pytest.mark.parametrize("temperature", [0, 0.0])
def test_temperature_0_is_greedy(temperature: float) -> None:
    assert not sampling(temperature=temperature).do_sample


def test_what_other_servers_call_off() -> None:
    assert sampling(top_p=1).top_p == 1.0
    assert sampling(top_p=0).top_k == 1
    assert sampling(top_k=-1).top_k == 0
    assert sampling(presence_penalty=0).presence_penalty == 0.0


def test_what_is_0_in_32_bits_is_0() -> None:
    assert not sampling(temperature=1e-60).do_sample
    assert sampling(top_p=1e-60).top_k == 1


def test_negative_seeds_are_seeds() -> None:
    assert sampling(seed=-1).seed == 2**64 - 1


def test_choices_have_consecutive_seeds() -> None:
    fields = msgspec.convert({"n": 3, "seed": 2**64 - 1}, SamplingFields)
    seeds = [choice.seed for choice in choice_samplings(fields, make_limits())]
    assert seeds == [2**64 - 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("min_p", 2),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("top_k", -2),
        ("n", 0),
        ("n", 5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"261": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"9" * 5000: 1}),
        ("repetition_penalty", 1e-60),
        ("repetition_penalty", 1e60),
        ("temperature", 1e60),
    ],
)
def test_bounds(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{name}`") as caught:
        sampling(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("given", "expected"), [("x", ("x",)), (["x", "y"], ("x", "y")), (None, ()), ([], ())]
)
def test_stop_is_a_string_or_a_list(given: Any, expected: tuple[str, ...]) -> None:
    fields = msgspec.convert({"stop": given}, SamplingFields)
    assert stop_sequences(fields, make_limits()) == expected


@pytest.mark.parametrize("given", ["", ["a", ""], list("abcde")])
def test_stop_is_bounded(given: Any) -> None:
    with pytest.raises(ValidationError, match="`stop`"):
        stop_sequences(msgspec.convert({"stop": given}, SamplingFields), make_limits())
