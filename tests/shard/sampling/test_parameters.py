import pytest
from text_generation_shard.sampling.parameters import (
    NO_FEATURES,
    Processor,
    SamplingFeatures,
    SamplingParameterError,
    SamplingParameters,
)


def test_defaults_need_nothing():
    assert SamplingParameters().processors == ()
    assert SamplingFeatures.of([SamplingParameters(), SamplingParameters()]) is NO_FEATURES


def test_rows_are_listed_by_processor():
    features = SamplingFeatures.of(
        [
            SamplingParameters(do_sample=True, top_k=5),
            SamplingParameters(),
            SamplingParameters(top_k=9, presence_penalty=1.0, watermark=True),
        ]
    )
    assert features.needing(Processor.TOP_K) == (0, 2)
    assert features.max_top_k == 9
    assert features.needing(Processor.DRAW) == (0,)
    assert features.needing(Processor.FREQUENCY) == (2,)
    assert features.needing(Processor.WATERMARK) == (2,)
    assert features.needing(Processor.TEMPERATURE) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("typical_p", 0.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", float("inf")),
        ("presence_penalty", float("nan")),
        ("seed", 1 << 64),
        ("seed", -1),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(name, value):
    with pytest.raises(SamplingParameterError, match=f"^{name} must be .*, got "):
        SamplingParameters(**{name: value})


def test_bias_without_meaning_is_refused_by_token():
    with pytest.raises(SamplingParameterError, match=r"logit_bias\[7\] must be a number, got nan"):
        SamplingParameters(logit_bias=((7, float("nan")),))


@pytest.mark.parametrize(
    ("seed", "signed"),
    [(0, 0), ((1 << 63) - 1, (1 << 63) - 1), (1 << 63, -(1 << 63)), ((1 << 64) - 1, -1)],
)
def test_seed_keeps_its_bits(seed, signed):
    assert SamplingParameters(seed=seed).signed_seed == signed
