import pytest
import torch
from text_generation_shard.sampling.philox import (
    Stream,
    Words,
    gumbel,
    philox,
    token_gumbel,
    token_words,
    vocabulary_gumbel,
    vocabulary_words,
)

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_the_authors(counter, key, expected):
    words = philox(Words(*(torch.tensor(word) for word in counter)), tuple(map(torch.tensor, key)))
    assert tuple(int(word) for word in words) == expected


def test_layout_of_key_and_counter():
    """Seed words are the key; (token // 4, position, stream, 0) the counter; token % 4 the lane."""
    seed, position = 0xA409382_2299F31D0, 12
    words = vocabulary_words(
        torch.tensor([seed - (1 << 64)]),
        torch.tensor([position]),
        vocab_size=11,
        stream=Stream.WATERMARK,
    )
    block = philox(
        Words(*map(torch.tensor, (2, position, 1, 0))),
        (torch.tensor(seed & ONES), torch.tensor(seed >> 32)),
    )
    assert words.shape == (1, 11)
    assert words[0, 8:].tolist() == [int(word) for word in block[:3]]


@pytest.mark.parametrize("vocab_size", [1, 4, 6, 257, 40001])
def test_noise_of_single_tokens_is_that_of_the_vocabulary_to_the_last_bit(vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    seeds = torch.randint(-(1 << 62), 1 << 62, (9,), generator=generator)
    positions = torch.randint(0, 1 << 20, (9,), generator=generator)
    noise = vocabulary_gumbel(seeds, positions, vocab_size=vocab_size)
    row = torch.randint(0, 9, (301,), generator=generator)
    token_ids = torch.randint(0, vocab_size, (301,), generator=generator)
    assert torch.equal(token_gumbel(seeds[row], positions[row], token_ids), noise[row, token_ids])
    for index in range(9):
        alone = vocabulary_gumbel(
            seeds[index : index + 1], positions[index : index + 1], vocab_size=vocab_size
        )
        assert torch.equal(alone[0], noise[index])


def test_seed_position_stream_and_token_all_matter():
    def words(seed, position, stream):
        return token_words(
            torch.full((64,), seed),
            torch.full((64,), position),
            torch.arange(64),
            stream=stream,
        )

    variants = [
        words(1, 5, Stream.DRAW),
        words(2, 5, Stream.DRAW),
        words(1 << 32, 5, Stream.DRAW),
        words(1, 6, Stream.DRAW),
        words(1, 5, Stream.WATERMARK),
    ]
    assert torch.cat(variants).unique().numel() == 5 * 64


def test_gumbel_is_finite_at_both_ends_and_has_the_right_moments():
    ends = gumbel(torch.tensor([0, 1, ONES - 1, ONES]))
    assert ends.isfinite().all()
    assert ends[0] > ends[1] > ends[2] >= ends[3]
    noise = vocabulary_gumbel(torch.arange(8), torch.arange(8), vocab_size=20000).double()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.02)
