"""Building, finding and doing without the library."""

import logging
from pathlib import Path

import pytest
import torch
from text_generation_shard.ops.cpu import build as build_module
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.build import BuildError, build, library_path


def forbid(*_: object) -> None:
    raise AssertionError("compiled again")


def test_a_library_that_is_there_is_not_built_again(
    operators: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "_run", forbid)
    assert build() == library_path()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library._load.cache_clear()
    yield tmp_path
    library._load.cache_clear()


def test_no_compiler(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning that says what it costs, and the reference serves."""
    monkeypatch.setenv("PATH", str(empty_cache))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        assert library.operators.__wrapped__() is None
    (record,) = caplog.records
    assert "no C++ compiler" in record.getMessage()
    assert "times as long" in record.getMessage()


def test_a_compiler_that_fails(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = empty_cache / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match="out of order"):
        build()
    assert not library_path().exists()
    assert not list(library_path().parent.iterdir())


def test_other_sources_are_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = library_path()
    (tmp_path / "other.cpp").write_text("")
    monkeypatch.setattr(build_module, "SOURCES", tmp_path)
    build_module._fingerprint.cache_clear()
    after = library_path()
    build_module._fingerprint.cache_clear()
    assert after != before


def test_which_tensors_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = object()
    monkeypatch.setattr(library, "operators", lambda: found)
    assert library.native_operators(torch.zeros(1)) is found
    assert library.native_operators(torch.zeros(1, dtype=torch.float16)) is None
    assert library.native_operators(torch.zeros(1, device="meta")) is None


def test_an_instruction_set_that_is_not_here(operators: object) -> None:
    with pytest.raises(ValueError, match="no operators for sse2 here, only for"):
        library.operators_for("sse2")
