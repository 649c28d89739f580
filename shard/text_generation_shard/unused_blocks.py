"""Blocks of a cache on CPU that no sequence has used yet, made ready while nothing is computed.

The cache is reserved, not touched: the kernel finds a page and clears it when it is first written
to, and a prompt waits for that (docs/notes/serving.md, "What HTTP costs on the cores that
compute"). The router hands out new blocks in ascending order: those behind the highest one seen
come next.
"""

from text_generation_proto import shard_pb2 as pb

from text_generation_shard.kv_cache import KVCache

# Blocks of one layer that are made ready at a time; a step that comes meanwhile waits for them.
_BLOCKS_AT_A_TIME = 64


class UnusedBlocks:
    """Owns how far the blocks of a cache have been used, and how far they were made ready.

    All calls come from the thread that computes steps.
    """

    def __init__(self, cache: KVCache, num_ahead: int) -> None:
        """num_ahead: blocks to keep ready."""
        self._layers = [layer for layer in cache.layers if layer.keys.numel()]
        self._num_blocks = cache.num_blocks
        self._num_ahead = num_ahead
        self._first_unused = 0
        # Pieces are some blocks of one layer: all layers' first blocks, then all layers' next ones.
        self._next_piece = 0

    def use(self, request: pb.StepRequest) -> None:
        """A step and those after it may write to these blocks."""
        tables = [request.new_block_ids]
        for admission in request.admissions:
            tables += (admission.block_ids, admission.encoder_block_ids)
        for table in tables:
            self._first_unused = max(self._first_unused, max(table, default=-1) + 1)

    def make_ready(self) -> bool:
        """Write to a few blocks; False if there was nothing to do."""
        if not self._layers:
            return False
        num_layers = len(self._layers)
        passed = self._first_unused // _BLOCKS_AT_A_TIME * num_layers
        self._next_piece = max(self._next_piece, passed)
        turn, index = divmod(self._next_piece, num_layers)
        begin = max(turn * _BLOCKS_AT_A_TIME, self._first_unused)
        if begin >= min(self._first_unused + self._num_ahead, self._num_blocks):
            return False
        end = (turn + 1) * _BLOCKS_AT_A_TIME
        layer = self._layers[index]
        for tensor in (layer.keys, layer.values):
            tensor[begin:end].zero_()
        self._next_piece += 1
        return True
