"""What a config.json says of a checkpoint that is stored in less than 16 bits."""

from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.fields import Fields
from text_generation_shard.weights.block_scales import ScaleBlocks


def read_scale_blocks(fields: Fields) -> ScaleBlocks | None:
    """Of 8-bit floats, or None where there is no `quantization_config`; all else is refused."""
    if not fields.has("quantization_config"):
        return None
    values = fields.section("quantization_config")
    method, sizes = values.text("quant_method", "unknown"), values.integers("weight_block_size")
    if method != "fp8" or len(sizes) != 2 or min(sizes) < 1:
        raise CheckpointError(
            f"quantization_config: checkpoints quantized by {method!r} are not supported "
            "(supported: 'fp8' with a weight_block_size)"
        )
    return ScaleBlocks(*sizes)
