"""A process's configuration as one frozen dataclass: its fields are its flags, its environment and
its help.

    @dataclass(frozen=True, kw_only=True)
    class RouterConfig:
        port: int = option(3000, help="TCP port to listen on.")

    config = parse(RouterConfig, program="text-generation-router")  # sys.argv and environment
    argv = arguments(RouterConfig(port=8080))  # ["--port", "8080"], to start a child process

A field `max_input_tokens` is the flag `--max-input-tokens` and the variable MAX_INPUT_TOKENS; the
flag wins. Types: str, int, float, bool, Literal of strings (given in any case), any of them
`| None`, `tuple[str, ...]` (a flag that may be repeated) and `tuple[int, ...]` (a comma-separated
list).
"""

import dataclasses
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import click

ConfigT = TypeVar("ConfigT")


class OptionError(ValueError):
    """An option's value cannot be used; the text names the flag."""


@dataclass(frozen=True, kw_only=True)
class _Option:
    """What a field's metadata says beyond name, type and default."""

    help: str
    short: str | None = None
    takes_value: bool = False
    environment: bool = True


_KEY = "text_generation_process.option"


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002
    short: str | None = None,
    takes_value: bool = False,
    environment: bool = True,
) -> Any:
    """Declare a configuration field that is also a flag; without a default the flag is required.

    A bool is a flag without a value, unless `takes_value` asks for `--flag true|false`. With
    `environment=False` only the flag sets it (a variable such as ENV belongs to others).
    """
    metadata = {
        _KEY: _Option(help=help, short=short, takes_value=takes_value, environment=environment)
    }
    return field(default=default, metadata=metadata)


def same_as(config_class: type, name: str) -> Any:
    """Declare a field that another config has already: same default, same help, same flag."""
    (item,) = (item for item in dataclasses.fields(config_class) if item.name == name)
    return field(default=item.default, metadata=item.metadata)


def flag_name(name: str) -> str:
    """The flag of a field: `max_input_tokens` is `--max-input-tokens`."""
    return "--" + name.replace("_", "-")


def parse(
    config_class: type[ConfigT],
    *,
    program: str,
    help: str | None = None,  # noqa: A002
    argv: Sequence[str] | None = None,
    version: str | None = None,
) -> ConfigT:
    """Read flags and environment into a config; on a bad one print one line that names it and exit
    with 2.
    """
    command = click.Command(
        program,
        params=_parameters(config_class),
        help=help,
        context_settings={"max_content_width": 100, "show_default": True},
    )
    if version is not None:
        command = click.version_option(version)(command)
    try:
        with command.make_context(program, list(sys.argv[1:] if argv is None else argv)) as context:
            return config_class(
                **{
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in context.params.items()
                }
            )
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        fail(program, error.format_message())
    except OptionError as error:
        fail(program, str(error))


def fail(program: str, message: str) -> NoReturn:
    """End the process as a usage error does: one line on standard error, exit code 2."""
    print(f"{program}: error: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def arguments(config: Any) -> list[str]:
    """The flags that make `parse` return an equal config when the environment names none of its
    fields.
    """
    argv: list[str] = []
    hints = get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        argv += _flag_arguments(item, hints[item.name], value)
    return argv


def without_options(
    config_class: type, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment less the variables that a config of this class reads: what its process is
    started with.

    A child gets its options as flags; a variable of the same name that was meant for its parent
    would add to them.
    """
    names = {
        item.name.upper()
        for item in dataclasses.fields(config_class)
        if item.metadata[_KEY].environment
    }
    source = os.environ if environment is None else environment
    return {name: value for name, value in source.items() if name not in names}


@dataclass(frozen=True, kw_only=True)
class OptionText:
    """One option as documentation shows it."""

    flag: str
    environment: str | None
    values: str
    default: str
    help: str


def describe(config_class: type) -> list[OptionText]:
    """Every option of a config, in the order of its fields."""
    hints = get_type_hints(config_class)
    return [_describe(item, hints[item.name]) for item in dataclasses.fields(config_class)]


def _describe(item: "Field[Any]", hint: Any) -> OptionText:
    declared: _Option = item.metadata[_KEY]
    shown = "" if item.default in (None, MISSING, ()) else str(item.default)
    flags = [flag_name(item.name), *([declared.short] if declared.short else [])]
    return OptionText(
        flag=", ".join(flags),
        environment=item.name.upper() if declared.environment else None,
        values="" if hint is bool and not declared.takes_value else _describe_values(hint),
        default=shown,
        help=declared.help,
    )


def _describe_values(hint: Any) -> str:
    kind = _click_type(hint)
    if isinstance(kind, click.Choice):
        return ", ".join(str(choice) for choice in kind.choices)
    return {"text": "text", "integer": "int", "boolean": "true, false"}.get(kind.name, kind.name)


def _flag_arguments(item: "Field[Any]", hint: Any, value: Any) -> list[str]:
    flag = flag_name(item.name)
    if isinstance(value, bool):
        return [flag, str(value).lower()] if item.metadata[_KEY].takes_value else [flag]
    if isinstance(value, tuple):
        if _is_comma_list(hint):
            return [flag, ",".join(map(str, value))]
        return [part for entry in value for part in (flag, str(entry))]
    return [flag, str(value)]


def _parameters(config_class: type) -> list[click.Parameter]:
    hints = get_type_hints(config_class)
    return [_parameter(item, hints[item.name]) for item in dataclasses.fields(config_class)]


def _parameter(item: "Field[Any]", hint: Any) -> click.Option:
    declared: _Option = item.metadata[_KEY]
    names = [item.name, flag_name(item.name)] + ([declared.short] if declared.short else [])
    required = item.default is MISSING
    is_flag = hint is bool and not declared.takes_value
    # to click a default of None is a default, and `is_flag=False` lets a value be left out
    default: dict[str, Any] = {} if required else {"default": item.default}
    return click.Option(
        names,
        type=_click_type(hint),
        required=required,
        **default,
        show_default=item.default not in (None, MISSING, ()),
        is_flag=is_flag or None,
        multiple=_is_repeated(hint),
        envvar=item.name.upper() if declared.environment else None,
        show_envvar=declared.environment,
        help=declared.help,
    )


def _click_type(hint: Any) -> click.ParamType[Any]:
    if _is_comma_list(hint):
        return _CommaList()
    bare = _without_none(hint)
    if get_origin(bare) is tuple:
        bare = get_args(bare)[0]
    if get_origin(bare) is Literal:
        return click.Choice([str(value) for value in get_args(bare)], case_sensitive=False)
    return {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}[bare]


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
    return hint


def _is_comma_list(hint: Any) -> bool:
    return bool(_without_none(hint) == tuple[int, ...])


def _is_repeated(hint: Any) -> bool:
    return bool(hint == tuple[str, ...])


class _CommaList(click.ParamType[Any]):
    """`1,2,4` as a tuple of ints; the empty string is the empty tuple."""

    name = "int,int,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of integers", param, ctx)
