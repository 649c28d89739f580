"""The table of flags in the contract, and what is refused."""

import dataclasses

import click
import pytest
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.log_level import most_verbose
from text_generation_launcher.refusals import warn_without_effect
from text_generation_process import options
from text_generation_process.options import OptionError, arguments, parse

# field, default. A default of None stands for TGI's "none", or is resolved.
TABLE = {
    "model_id": None,
    "revision": None,
    "validation_workers": 2,
    "sharded": None,
    "num_shard": None,
    "quantize": None,
    "speculate": None,
    "dtype": None,
    "kv_cache_dtype": None,
    "trust_remote_code": False,
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_top_n_tokens": 5,
    "max_input_tokens": None,
    "max_input_length": None,
    "max_total_tokens": None,
    "waiting_served_ratio": 0.3,
    "max_batch_prefill_tokens": None,
    "max_batch_total_tokens": None,
    "max_waiting_tokens": 20,
    "max_batch_size": None,
    "cuda_graphs": None,
    "hostname": "0.0.0.0",
    "port": 3000,
    "prometheus_port": 9000,
    "shard_uds_path": None,
    "master_addr": None,
    "master_port": None,
    "huggingface_hub_cache": None,
    "weights_cache_override": None,
    "disable_custom_kernels": False,
    "cuda_memory_fraction": 1.0,
    "rope_scaling": None,
    "rope_factor": None,
    "json_output": False,
    "otlp_endpoint": None,
    "otlp_service_name": "text-generation-inference.router",
    "cors_allow_origin": (),
    "api_key": None,
    "api_key_file": None,
    "watermark_gamma": None,
    "watermark_delta": None,
    "ngrok": False,
    "ngrok_authtoken": None,
    "ngrok_edge": None,
    "tokenizer_config_path": None,
    "disable_grammar_support": False,
    "env": False,
    "max_client_batch_size": 4,
    "lora_adapters": None,
    "usage_stats": "on",
    "payload_limit": 2_000_000,
    "enable_prefill_logprobs": False,
    "graceful_termination_timeout": 90.0,
}
OWN = {
    "all_reduce": "auto",
    "attention": "auto",
    "target_step_ms": 100.0,
    "block_size": 16,
    "num_threads": None,
    "log_level": "info",
    "max_restarts": 3,
    "step_timeout": 60.0,
    "restart_timeout": 600.0,
    "nnodes": 1,
    "node_rank": 0,
    "node_secret": None,
    "node_timeout": 600.0,
}
# What several nodes need beside.
NODES = ("--nnodes", "8", "--master-addr", "10.0.0.1", "--node-secret", "x" * 16)
BESIDE = {"nnodes": NODES, "node_rank": NODES}
SHORT = {"port": "-p", "env": "-e", "graceful_termination_timeout": "-g"}

# Values that a flag takes, as text and as read; a Literal's text is in the help.
SAMPLES = {
    "rope_scaling": ("dynamic", "dynamic"),
    "dtype": ("bfloat16", "bfloat16"),
    "kv_cache_dtype": ("fp8_e5m2", "fp8_e5m2"),
    "all_reduce": ("nccl", "nccl"),
    "attention": ("flashinfer", "flashinfer"),
    "usage_stats": ("no-stack", "no-stack"),
    "sharded": ("false", False),
    "cuda_graphs": ("1,8", (1, 8)),
    "speculate": ("0", 0),
    "cors_allow_origin": ("https://a.example", ("https://a.example",)),
    "log_level": ("debug", "debug"),
    "cuda_memory_fraction": ("0.5", 0.5),
    "watermark_gamma": ("0.25", 0.25),
}
REFUSED = {
    "quantize": "awq",
    "speculate": "3",
    "lora_adapters": "someone/adapter",
    "ngrok": None,
    "otlp_endpoint": "http://localhost:4317",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in [*TABLE, *OWN]:
        monkeypatch.delenv(name.upper(), raising=False)


def launcher(*argv):
    return parse(LauncherConfig, program="launcher", argv=argv)


def sample(name):
    if name in SAMPLES:
        return SAMPLES[name]
    if isinstance((TABLE | OWN)[name], bool):
        return (None, True)
    kinds = {item.name: item.type for item in dataclasses.fields(LauncherConfig)}
    kind = str(kinds[name])
    if "int" in kind:
        return ("7", 7)
    return ("7.5", 7.5) if "float" in kind else ("text", "text")


def test_the_fields_are_the_table_and_our_own():
    fields = {item.name: item.default for item in dataclasses.fields(LauncherConfig)}
    assert fields == TABLE | OWN


def test_without_anything_it_is_all_defaults():
    assert launcher() == LauncherConfig()


@pytest.mark.parametrize("name", [name for name in TABLE | OWN if name not in REFUSED])
def test_each_option_is_a_flag_and_a_variable(name, monkeypatch):
    text, value = sample(name)
    flag = "--" + name.replace("_", "-")
    beside = BESIDE.get(name, ())
    by_flag = launcher(*beside, flag) if text is None else launcher(*beside, flag, text)
    assert getattr(by_flag, name) == value
    if name == "env":  # ENV is a variable of others
        monkeypatch.setenv("ENV", "production")
        assert launcher() == LauncherConfig()
        return
    monkeypatch.setenv(name.upper(), "true" if text is None else text)
    without = tuple(part for part in beside if name != "nnodes" or part not in NODES[:2])
    assert launcher(*without) == by_flag


@pytest.mark.parametrize(("name", "short"), SHORT.items())
def test_short_flags(name, short):
    text, value = sample(name)
    argv = [short] if text is None else [short, text]
    assert getattr(launcher(*argv), name) == value


def test_short_flags_are_no_others():
    command = click.Command("launcher", params=options._parameters(LauncherConfig))
    shorts = {
        parameter.name: opt
        for parameter in command.params
        for opt in parameter.opts
        if not opt.startswith("--")
    }
    assert shorts == SHORT


def test_a_flag_wins_over_its_variable(monkeypatch):
    monkeypatch.setenv("PORT", "80")
    assert launcher("-p", "8080").port == 8080
    assert launcher().port == 80


def test_repeated_origins():
    argv = ("--cors-allow-origin", "https://a", "--cors-allow-origin", "https://b")
    assert launcher(*argv).cors_allow_origin == ("https://a", "https://b")


@pytest.mark.parametrize(("name", "text"), REFUSED.items())
def test_what_cannot_be_honoured_is_refused_by_name(name, text, capsys):
    flag = "--" + name.replace("_", "-")
    argv = [flag] if text is None else [flag, text]
    with pytest.raises(SystemExit) as exit_:
        launcher(*argv)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("launcher: error: " + " ".join(argv)), error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused_variables_are_refused_as_well(name, monkeypatch, capsys):
    monkeypatch.setenv(name.upper(), REFUSED[name] or "true")
    with pytest.raises(SystemExit):
        launcher()
    assert "--" + name.replace("_", "-") in capsys.readouterr().err


@pytest.mark.parametrize("value", ["int8", "int4"])
def test_quantized_weights_that_there_are(value):
    assert launcher("--quantize", value).quantize == value


def test_values_that_ask_for_nothing_are_fine():
    config = launcher("--speculate", "0", "--cuda-graphs", "0,0", "--lora-adapters", "")
    assert (config.speculate, config.cuda_graphs) == (0, (0, 0))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--num-shard", "0"], "--num-shard"),
        (["--port", "0"], "--port"),
        (["--port", "65536"], "--port"),
        (["--port", "http"], "--port"),
        (["--master-port", "0"], "--master-port"),
        (["--nnodes", "0"], "--nnodes"),
        (["--node-rank", "1"], "--node-rank must be less than --nnodes (1), got 1"),
        ([*NODES, "--node-rank", "8"], "--node-rank must be less than --nnodes (8), got 8"),
        ([*NODES, "--node-rank", "-1"], "--node-rank"),
        ([*NODES, "--num-shard", "9"], "--num-shard 9 cannot be divided among --nnodes 8"),
        ([*NODES, "--node-timeout", "0"], "--node-timeout"),
        ([*NODES[:4], "--node-secret", "short"], "--node-secret of at least 16"),
        ([*NODES[:2], *NODES[4:]], "--nnodes 8 needs --master-addr"),
        (["--max-input-tokens", "5", "--max-input-length", "5"], "--max-input-length"),
        (["--max-total-tokens", "9", "--max-batch-total-tokens", "8"], "--max-batch-total-tokens"),
        (["-g", "-1"], "--graceful-termination-timeout"),
        (["--sharded", "perhaps"], "--sharded"),
        (["--dtype", "int3"], "--dtype"),
        (["--cuda-graphs", "one"], "--cuda-graphs"),
        (["--log-level", "loud"], "--log-level"),
        (["--api-key", ""], "--api-key is empty"),
        (["--model-id", ""], "--model-id is empty"),
        (["--no-such-flag"], "--no-such-flag"),
        (["argument"], "argument"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_flag_and_exit_code_2(argv, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        launcher(*argv)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_arguments_make_the_same_config_again():
    config = LauncherConfig(port=81, sharded=False, cuda_graphs=(), cors_allow_origin=("a", "b"))
    assert launcher(*arguments(config)) == config


@pytest.mark.parametrize(
    ("log_level", "level"),
    [
        ("info", "INFO"),
        ("WARN", "WARNING"),
        ("warning", "WARNING"),
        ("trace", "TRACE"),
        ("error", "ERROR"),
        ("off", "ERROR"),
        ("info,text_generation_router=debug", "DEBUG"),
        ("text_generation_router=warn, hyper", "WARNING"),
    ],
)
def test_the_most_verbose_level_of_a_filter_counts(log_level, level):
    assert most_verbose(log_level) == level


def test_a_filter_without_a_level_is_refused():
    with pytest.raises(OptionError, match="LOG_LEVEL"):
        most_verbose("hyper")


def test_what_is_without_effect_is_said_by_name(caplog):
    """TGI's command lines have these; nobody was told that they do nothing."""
    warn_without_effect(LauncherConfig())
    assert not caplog.messages
    warn_without_effect(
        LauncherConfig(
            disable_custom_kernels=True,
            waiting_served_ratio=1.2,
            max_waiting_tokens=7,
            prometheus_port=9100,
        )
    )
    assert [message.partition(" is without effect: ")[0] for message in caplog.messages] == [
        "--disable-custom-kernels",
        "--waiting-served-ratio 1.2",
        "--max-waiting-tokens 7",
        "--prometheus-port 9100",
    ]
