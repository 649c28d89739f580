"""What the dialects read requests with."""

from collections.abc import Iterator

import pytest
from text_generation_router.prompt.tokenizer import TokenizerPool

from tests.fakes.byte_tokenizer import byte_tokenizer


@pytest.fixture
def tokenizer() -> Iterator[TokenizerPool]:
    pool = TokenizerPool(byte_tokenizer(), 1)
    yield pool
    pool.close()
