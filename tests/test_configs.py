"""Every process's configuration: each field is a flag with help, and goes to a child unchanged."""

import dataclasses

import click
import pytest
from text_generation_benchmark.config import BenchmarkConfig
from text_generation_launcher.config import LauncherConfig
from text_generation_process import options
from text_generation_process.options import arguments, flag_name, parse
from text_generation_router.config import RouterConfig
from text_generation_shard.config import ShardConfig

CONFIGS = {
    LauncherConfig: LauncherConfig(master_addr="10.0.0.1", node_secret="x" * 16),  # for nnodes
    RouterConfig: RouterConfig(model_path="/model"),
    ShardConfig: ShardConfig(model_path="/model"),
    BenchmarkConfig: BenchmarkConfig(),
}
EVERY_FIELD = [
    pytest.param(config_class, item, id=f"{config_class.__name__}.{item.name}")
    for config_class in CONFIGS
    for item in dataclasses.fields(config_class)
]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for config_class in CONFIGS:
        for item in dataclasses.fields(config_class):
            monkeypatch.delenv(item.name.upper(), raising=False)


def parameter(config_class, name):
    (found,) = (p for p in options._parameters(config_class) if p.name == name)
    return found


def candidates(config_class, name):
    """Values to try, from what the flag says it takes."""
    kind = parameter(config_class, name).type
    if isinstance(kind, click.Choice):
        return list(kind.choices)
    if isinstance(kind, options._CommaList):
        return [(0,), (1, 2)]
    return {
        click.BOOL: [True, False],
        click.INT: [7, 0],
        click.FLOAT: [0.25, 7.0],
        click.STRING: ["127.0.0.1", ("a", "b c"), "debug", ("1", "2"), "http://a", "a.svg"],
    }[kind]


@pytest.mark.parametrize(("config_class", "item"), EVERY_FIELD)
def test_every_field_is_a_flag_with_help(config_class, item):
    found = parameter(config_class, item.name)
    assert flag_name(item.name) in found.opts
    assert found.envvar in (item.name.upper(), None)
    assert found.help.endswith("."), "a sentence"


@pytest.mark.parametrize(("config_class", "item"), EVERY_FIELD)
def test_every_value_goes_to_a_child_unchanged(config_class, item):
    tried = 0
    for value in candidates(config_class, item.name):
        is_list = isinstance(item.default, tuple) or isinstance(
            parameter(config_class, item.name).type, options._CommaList
        )
        if isinstance(value, tuple) != is_list:
            continue
        try:
            config = dataclasses.replace(CONFIGS[config_class], **{item.name: value})
        except options.OptionError:
            continue  # refused, which is another test's matter
        assert parse(config_class, program="child", argv=arguments(config)) == config
        tried += 1
    only_refused = item.name in ("lora_adapters", "otlp_endpoint")
    assert tried or only_refused


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_switch_is_off_by_default(config_class):
    """A switch that is on could not be turned off by a flag."""
    for item in dataclasses.fields(config_class):
        if item.default is True:
            assert parameter(config_class, item.name).is_flag is False, item.name
