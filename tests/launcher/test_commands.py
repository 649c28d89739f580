"""What the children are started with."""

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from text_generation_launcher.commands import (
    Rendezvous,
    download_command,
    router_command,
    router_config,
    shard_commands,
    shard_config,
)
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.model import Model
from text_generation_launcher.resolve import resolve
from text_generation_process.options import OptionError, parse
from text_generation_router.config import RouterConfig
from text_generation_shard.config import RankInfo, ShardConfig

MODEL = Model(Path("/models/tiny"), "someone/tiny")
RENDEZVOUS = Rendezvous(shard_uds_path="/run/shard", master_addr="localhost", master_port=29501)

# Every launcher option that goes to a child under its own name, with a value of its own.
FOR_ROUTER = {
    "revision": "main",
    "tokenizer_config_path": "/t.json",
    "max_concurrent_requests": 7,
    "max_best_of": 3,
    "max_stop_sequences": 6,
    "max_top_n_tokens": 8,
    "max_input_tokens": 100,
    "max_total_tokens": 200,
    "max_client_batch_size": 9,
    "payload_limit": 1000,
    "enable_prefill_logprobs": True,
    "disable_grammar_support": True,
    "max_batch_prefill_tokens": 512,
    "max_batch_total_tokens": 4096,
    "max_batch_size": 5,
    "target_step_ms": 50.0,
    "block_size": 32,
    "max_restarts": 2,
    "step_timeout": 30.5,
    "restart_timeout": 45.5,
    "hostname": "127.0.0.1",
    "port": 8081,
    "cors_allow_origin": ("https://a", "https://b"),
    "api_key": "secret",
    "api_key_file": "/keys",
    "validation_workers": 4,
    "graceful_termination_timeout": 5.5,
}
FOR_SHARD = {
    "dtype": "bfloat16",
    "quantize": "int4",
    "kv_cache_dtype": "fp8_e5m2",
    "trust_remote_code": True,
    "rope_scaling": "dynamic",
    "rope_factor": 2.0,
    "cuda_memory_fraction": 0.5,
    "cuda_graphs": (1, 4),
    "all_reduce": "nccl",
    "attention": "flash",
    "watermark_gamma": 0.25,
    "watermark_delta": 1.5,
    "num_threads": 3,
}
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for item in (*fields(RouterConfig), *fields(ShardConfig)):
        monkeypatch.delenv(item.name.upper(), raising=False)


def read_back(config_class, command, monkeypatch):
    """What the child makes of its command line and environment."""
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    module = next(part for part in command.argv if part.endswith(".cli"))
    argv = list(command.argv[command.argv.index(module) + 1 :])
    return parse(config_class, program="child", argv=[part for part in argv if part != "serve"])


def test_router_options_arrive(monkeypatch):
    config = LauncherConfig(**FOR_ROUTER)
    router = router_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)
    for name, value in FOR_ROUTER.items():
        assert getattr(router, name) == value, name
    assert (router.model_path, router.model_id) == ("/models/tiny", "someone/tiny")
    assert (router.shard_uds_path, router.num_shard) == ("/run/shard", 2)
    assert router.json_output
    assert read_back(RouterConfig, router_command(router, {}), monkeypatch) == router


def test_every_router_option_comes_from_the_launcher():
    own = {"model_path", "model_id", "shard_uds_path", "num_shard", "json_output", "logger_level"}
    assert {item.name for item in fields(RouterConfig)} == own | set(FOR_ROUTER)


def test_shard_options_arrive(monkeypatch):
    config = LauncherConfig(**FOR_SHARD, log_level="debug")
    shard = shard_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)
    for name, value in FOR_SHARD.items():
        assert getattr(shard, name) == value, name
    assert (shard.model_path, shard.uds_path) == ("/models/tiny", "/run/shard")
    assert (shard.logger_level, shard.json_output) == ("DEBUG", True)
    commands = shard_commands(shard, 2, RENDEZVOUS, {})
    for rank, command in enumerate(commands):
        assert command.origin.rank == rank
        assert read_back(ShardConfig, command, monkeypatch) == shard
        assert RankInfo.from_environment(command.environment) == RankInfo(
            rank=rank, world_size=2, master_addr="localhost", master_port=29501
        )


def test_every_shard_option_comes_from_the_launcher():
    own = {"model_path", "uds_path", "tcp_token", "json_output", "logger_level"}
    assert {item.name for item in fields(ShardConfig)} == own | set(FOR_SHARD)


def test_a_node_starts_its_ranks_whatever_a_scheduler_has_set(monkeypatch):
    config = LauncherConfig()
    shard = replace(shard_config(config, resolve(config, {}), MODEL, RENDEZVOUS), tcp_token="tok")
    scheduler = {"RANK": "7", "WORLD_SIZE": "9", "LOCAL_RANK": "7", "LOCAL_WORLD_SIZE": "1"}
    variables = scheduler | {"NODE_SECRET": "s", "NNODES": "2", "NODE_RANK": "1", "TCP_TOKEN": "x"}
    commands = shard_commands(shard, 4, RENDEZVOUS, variables, range(2, 4))
    for local, command in enumerate(commands):
        assert command.origin.rank == 2 + local
        assert "tok" not in command.argv and "tok" not in repr(command)
        expected = {
            "RANK": str(2 + local),
            "WORLD_SIZE": "4",
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "29501",
            "TCP_TOKEN": "tok",
        }
        assert dict(command.environment) == expected
        assert read_back(ShardConfig, command, monkeypatch) == shard


def test_defaults_stay_the_childrens_own():
    config = LauncherConfig()
    shard = shard_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)
    assert shard == ShardConfig(model_path="/models/tiny", uds_path="/run/shard", json_output=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_best_of": 0}, "--max-best-of"),
        ({"validation_workers": 0}, "--validation-workers"),
        ({"max_input_tokens": 10, "max_total_tokens": 10}, "--max-input-tokens"),
    ],
)
def test_the_router_judges_its_options_by_the_same_flags(options, named):
    config = LauncherConfig(**options)
    with pytest.raises(OptionError, match=named):
        router_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)


def test_the_shard_judges_its_options_by_the_same_flags():
    config = LauncherConfig(num_threads=0)
    with pytest.raises(OptionError, match="--num-threads"):
        shard_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)


def test_variables_for_the_launcher_do_not_reach_the_children():
    environment = {
        "PATH": "/bin",
        "PORT": "80",
        "DTYPE": "bfloat16",
        "MODEL_ID": "x",
        "API_KEY": "from the environment",
        "UDS_PATH": "/elsewhere",
        "MODEL_PATH": "/elsewhere",
        "LOGGER_LEVEL": "ERROR",
        "ENV": "production",
    }
    config = LauncherConfig()
    resolved = resolve(config, GPUS)
    router = router_command(router_config(config, resolved, MODEL, RENDEZVOUS), environment)
    shard = shard_config(config, resolved, MODEL, RENDEZVOUS)
    (command,) = shard_commands(shard, 1, RENDEZVOUS, environment)
    download = download_command(config, "someone/tiny", environment)
    kept = {"PATH": "/bin", "ENV": "production"}
    assert dict(router.environment) == {**kept, "UDS_PATH": "/elsewhere"}
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"}
    ranks |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert dict(command.environment) == kept | ranks
    assert "PORT" not in download.environment


def test_the_api_key_is_not_on_the_command_line():
    config = LauncherConfig(api_key="secret")
    router = router_config(config, resolve(config, GPUS), MODEL, RENDEZVOUS)
    command = router_command(router, {})
    assert "secret" not in command.argv
    assert command.environment["API_KEY"] == "secret"
    assert "secret" not in repr(command)


@pytest.mark.parametrize(
    ("environment", "token"),
    [
        ({"HF_API_TOKEN": "a", "HF_TOKEN": "b"}, "a"),
        ({"HF_TOKEN": "b", "HUGGING_FACE_HUB_TOKEN": "c"}, "b"),
        ({"HUGGING_FACE_HUB_TOKEN": "c"}, "c"),
        ({"HF_API_TOKEN": ""}, None),
    ],
)
def test_the_hubs_token_has_one_name(environment, token):
    command = download_command(LauncherConfig(), "someone/tiny", environment)
    assert command.environment.get("HF_TOKEN") == token


def test_the_download_gets_its_flags():
    config = LauncherConfig(
        revision="refs/pr/1", huggingface_hub_cache="/hub", weights_cache_override="/weights"
    )
    command = download_command(config, "someone/tiny", {})
    argv = command.argv
    assert argv[0] == sys.executable
    start = argv.index("download-weights")
    assert argv[start + 1] == "someone/tiny"
    for flag, value in {
        "--revision": "refs/pr/1",
        "--huggingface-hub-cache": "/hub",
        "--weights-cache-override": "/weights",
    }.items():
        assert argv[argv.index(flag) + 1] == value
    assert "--json-output" in argv
    plain = download_command(replace(config, revision=None), "someone/tiny", {})
    assert "--revision" not in plain.argv
    assert "--trust-remote-code" not in plain.argv
    trusting = download_command(replace(config, trust_remote_code=True), "someone/tiny", {})
    assert "--trust-remote-code" in trusting.argv
