"""The shape of the demonstration model."""

from tokenizers import Tokenizer
from transformers import LlamaConfig

from text_generation_demo.tokenizer import END_OF_TEXT, MAX_LENGTH, TURN_END, VOCAB_SIZE

ROPE_THETA = 10000.0


def end_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end an answer: of a turn first, then of a raw text (also the padding)."""
    ids = [tokenizer.token_to_id(token) for token in (TURN_END, END_OF_TEXT)]
    assert None not in ids
    return [int(token_id) for token_id in ids if token_id is not None]


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    """Heads and widths divide by 2 and 4, so that the model can be split over as many ranks."""
    end_ids = end_token_ids(tokenizer)
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_ids,
        pad_token_id=end_ids[-1],
    )
