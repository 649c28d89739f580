"""A dataclass's fields are flags, variables and help."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_process.options import (
    OptionError,
    arguments,
    fail,
    flag_name,
    option,
    parse,
    without_options,
)


@dataclass(frozen=True, kw_only=True)
class Example:
    path: str = option(help="Required.")
    count: int = option(3, short="-c", help="A number.")
    limit: int | None = option(None, help="A number or none.")
    share: float = option(0.5, help="A fraction.")
    kind: Literal["good", "bad"] = option("good", help="One of two.")
    on: bool = option(False, help="A switch.")
    maybe: bool | None = option(None, takes_value=True, help="A switch with three states.")
    always: bool = option(True, takes_value=True, help="A switch that is on.")
    names: tuple[str, ...] = option((), help="Repeatable.")
    sizes: tuple[int, ...] | None = option(None, help="A list.")
    env: bool = option(False, environment=False, help="Only a flag.")

    def __post_init__(self) -> None:
        if self.count < 0:
            raise OptionError(f"--count must be at least 0, got {self.count}")


def example(*argv):
    return parse(Example, program="example", argv=argv)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in Example.__dataclass_fields__:
        monkeypatch.delenv(name.upper(), raising=False)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        Example,
        path=TEXT,
        count=st.integers(0),
        limit=st.none() | st.integers(),
        share=st.floats(allow_nan=False),
        kind=st.sampled_from(["good", "bad"]),
        on=st.booleans(),
        maybe=st.none() | st.booleans(),
        always=st.booleans(),
        names=st.lists(TEXT, max_size=3).map(tuple),
        sizes=st.none() | st.lists(st.integers(), max_size=3).map(tuple),
        env=st.booleans(),
    )
)
def test_arguments_are_read_back(config):
    assert example(*arguments(config)) == config


def test_defaults_need_no_arguments():
    assert arguments(Example(path="x")) == ["--path", "x"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("limit", "4", 4),
        ("share", "0.25", 0.25),
        ("kind", "bad", "bad"),
        ("on", "true", True),
        ("on", "1", True),
        ("on", "false", False),
        ("maybe", "false", False),
        ("names", "a", ("a",)),
        ("sizes", "1, 2,", (1, 2)),
    ],
)
def test_variables(monkeypatch, name, text, value):
    monkeypatch.setenv(name.upper(), text)
    assert getattr(example("--path", "x"), name) == value


def test_a_flag_wins_over_its_variable(monkeypatch):
    monkeypatch.setenv("COUNT", "4")
    assert example("--path", "x", "-c", "5").count == 5


def test_a_choice_is_read_in_any_case():
    assert parse(Example, program="p", argv=["--path", "x", "--kind", "BAD"]).kind == "bad"


def test_an_option_without_a_variable(monkeypatch):
    monkeypatch.setenv("ENV", "production")
    assert example("--path", "x").env is False
    assert without_options(Example, {"ENV": "production"}) == {"ENV": "production"}


def test_the_environment_less_the_options():
    assert without_options(Example, {"PATH": "/bin", "COUNT": "4", "HOME": "/"}) == {"HOME": "/"}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--path"),
        (["--path", "x", "--count", "many"], "--count"),
        (["--path", "x", "--count", "-1"], "--count must be at least 0, got -1"),
        (["--path", "x", "--kind", "ugly"], "--kind"),
        (["--path", "x", "--maybe", "2.5"], "--maybe"),
        (["--path", "x", "--sizes", "1,b"], "--sizes"),
        (["--path", "x", "--unknown"], "--unknown"),
        (["--path"], "--path"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(capsys, argv, named):
    with pytest.raises(SystemExit) as exit_:
        example(*argv)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("example: error: ")
    assert named in error
    assert error.count("\n") == 1


def test_help_names_every_flag_variable_and_default(capsys):
    with pytest.raises(SystemExit) as exit_:
        example("--help")
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in Example.__dataclass_fields__:
        assert flag_name(name) in text
        assert (f"env var: {name.upper()}" in text) == (name != "env")
    assert "default: 0.5" in text
    assert "[required]" in text or "required]" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(Example, program="example", argv=["--version"], version="1.2")
    assert exit_.value.code == 0
    assert "1.2" in capsys.readouterr().out


def test_fail(capsys):
    with pytest.raises(SystemExit) as exit_:
        fail("example", "no")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "example: error: no\n"
