"""The options: TGI's names and defaults, and refusals that name the flag."""

import pytest
from text_generation_benchmark.config import BenchmarkConfig
from text_generation_process.options import OptionError, describe, parse


def test_names_and_defaults_are_those_of_tgi() -> None:
    found = {
        option.flag: (option.environment, option.default) for option in describe(BenchmarkConfig)
    }
    assert (
        found.items()
        >= {
            "--tokenizer-name, -t": ("TOKENIZER_NAME", ""),
            "--revision": ("REVISION", "main"),
            "--batch-size, -b": (None, ""),
            "--sequence-length, -s": ("SEQUENCE_LENGTH", "10"),
            "--decode-length, -d": ("DECODE_LENGTH", "8"),
            "--runs, -r": ("RUNS", "10"),
            "--warmups, -w": ("WARMUPS", "1"),
            "--master-shard-uds-path, -m": (
                "MASTER_SHARD_UDS_PATH",
                "/tmp/text-generation-server-0",
            ),
            "--temperature": ("TEMPERATURE", ""),
            "--top-n-tokens": ("TOP_N_TOKENS", ""),
            "--watermark": ("WATERMARK", "False"),
        }.items()
    )
    assert BenchmarkConfig().batch_sizes == (1, 2, 4, 8, 16, 32)


def test_batch_size_is_repeated() -> None:
    config = parse(BenchmarkConfig, program="x", argv=["-b", "3", "--batch-size", "5"])
    assert config.batch_sizes == (3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": ("0",)}, "--batch-size must be at least 1, got '0'"),
        ({"batch_size": ("two",)}, "--batch-size must be at least 1, got 'two'"),
        ({"decode_length": 1}, "--decode-length must be at least 2, got 1"),
        ({"sequence_length": 0}, "--sequence-length must be at least 1, got 0"),
        ({"runs": 0}, "--runs must be at least 1, got 0"),
        ({"warmups": -1}, "--warmups must be at least 0, got -1"),
        ({"top_p": 1.0}, "--top-p must be in (0, 1), got 1.0"),
        ({"temperature": 0.0}, "--temperature must be > 0, got 0.0"),
        ({"plot": "plot.png"}, "must end in .svg, got 'plot.png'"),
        ({"url": "127.0.0.1:80"}, "--url must be http(s)://host[:port]"),
        (
            {"url": "http://a", "tokenizer_name": "b"},
            "--tokenizer-name makes the prompt for a shard",
        ),
        ({"url": "http://a", "master_shard_uds_path": "b"}, "either --url or --master-shard"),
    ],
)
def test_what_cannot_be_is_refused(options, message) -> None:
    with pytest.raises(OptionError) as caught:
        BenchmarkConfig(**options)
    assert message in str(caught.value)


def test_a_sampling_parameter_means_sampling() -> None:
    assert not BenchmarkConfig(repetition_penalty=1.2).samples
    assert BenchmarkConfig(top_k=3).samples
    assert BenchmarkConfig(top_k=3, top_n_tokens=2).sampling() == {
        "top_k": 3,
        "top_n_tokens": 2,
        "do_sample": False,
        "watermark": False,
    }
