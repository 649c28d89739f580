import pytest
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.build import BuildError
from text_generation_shard.ops.cpu.library import Operators


def _instruction_sets() -> tuple[str, ...]:
    try:
        return library.instruction_sets()
    except BuildError:
        return ()


@pytest.fixture(scope="session", params=["avx2", "avx512", "avx512_bf16"])
def operators(request: pytest.FixtureRequest) -> Operators:
    """The operators of every instruction set that this machine has; built if need be."""
    if request.param not in _instruction_sets():
        pytest.skip(f"no {request.param} here")
    return library.operators_for(request.param)
