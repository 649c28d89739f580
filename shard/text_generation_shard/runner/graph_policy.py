"""For which steps there are graphs, by device: how many rows, what of sampling, how much memory."""

import enum
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from text_generation_shard.batch.slots import SlotLimits
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError
from text_generation_shard.models.model import Model
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.triton import library
from text_generation_shard.sampling import native
from text_generation_shard.sampling.parameters import FILTERS, Processor

# Rows: matrix products take as long for a few rows more, so that buckets may be wide.
DEFAULT_BUCKETS = (1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 257, 32))

# The same on the CPU, where a graph serves its own number alone. Above, what it saves is little
# beside the step.
_CPU_BUCKETS = tuple(range(1, 65))


def graph_buckets(
    sizes: Sequence[int] | None, ranks: RankGroup, device: torch.device
) -> tuple[int, ...]:
    """The rows of the graphs for --cuda-graphs, ascending; none where there can be no graphs,
    CapacityError if some are asked for. On the CPU these are no CUDA graphs: the option can turn
    them off, not choose them.
    """
    nothing = torch.empty(0, device=device)
    if native_operators(nothing) is not None:
        return _CPU_BUCKETS if sizes is None and ranks.can_be_recorded else ()
    if not library.takes(nothing):
        if any(sizes or ()):
            asked = ",".join(map(str, sizes or ()))
            raise CapacityError(f"--cuda-graphs {asked}: there is no Triton here")
        return ()
    return DEFAULT_BUCKETS if sizes is None else tuple(sorted({*sizes} - {0}))


def buckets_for(buckets: Sequence[int], max_rows: int) -> tuple[int, ...]:
    """Those that steps of up to max_rows rows need; ascending, both."""
    return tuple(buckets[: bisect_left(buckets, max_rows) + 1])


def can_be_recorded(model: Model, limits: SlotLimits) -> bool:
    """Whether the device alone can make the inputs of this model's decode steps: there must be no
    encoder, and on a GPU no recurrent layers, which torch computes there.
    """
    spec = model.cache_spec
    is_by_torch = spec.recurrent is not None and spec.device.type == "cuda"
    return not (limits.is_encoder_decoder or is_by_torch)


class SamplingKind(enum.Enum):
    """What a graph's sampler does, by the processors that rows may ask for; none: there is none."""

    OUTSIDE = frozenset[Processor]()
    PLAIN = frozenset({Processor.TEMPERATURE, Processor.DRAW})
    FILTERED = PLAIN | frozenset(FILTERS)
    PENALISED = FILTERED | {Processor.REPETITION, Processor.FREQUENCY}
    # On the CPU: all that the C++ operators do, biases and grammars among it.
    NATIVE = frozenset(native.PROCESSORS | native.CHANGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPolicy:
    """How graphs of one kind of device are used.

    sampling: kinds that there are, least first. fills_up: whether a step may take a graph of more
    rows. patience: steps that make do without their graph until it is recorded between two of them:
    by then they have lost about as much time as that takes. records_ahead: whether pauses serve to
    record what no step wanted yet. bytes_per_score: of the largest step's scores, for all that is
    computed with them, an estimate. bytes_per_graph: for the launches.
    """

    sampling: tuple[SamplingKind, ...]
    fills_up: bool
    patience: int
    records_ahead: bool
    bytes_per_score: int
    bytes_per_graph: int

    def num_bytes(self, buckets: Sequence[int], vocab_size: int) -> int:
        """Memory that graphs take beside the cache: the largest, and all that may be recorded
        later.
        """
        scores = max(buckets, default=0) * vocab_size
        return scores * self.bytes_per_score + self.launch_bytes(buckets)

    def launch_bytes(self, buckets: Sequence[int]) -> int:
        """Memory for the launches of a graph of each kind for every bucket."""
        return len(buckets) * len(self.sampling) * self.bytes_per_graph


ON_GPU = GraphPolicy(
    sampling=(
        SamplingKind.OUTSIDE,
        SamplingKind.PLAIN,
        SamplingKind.FILTERED,
        SamplingKind.PENALISED,
    ),
    fills_up=True,
    patience=100,
    records_ahead=True,
    # For all processors' tensors, doubled; and for logits that are sampled from behind a graph.
    bytes_per_score=2 * (2 + 4 + 4 + 4) + 4,
    # The driver keeps it: an estimate.
    bytes_per_graph=16 << 20,
)
ON_CPU = GraphPolicy(
    sampling=(SamplingKind.OUTSIDE, SamplingKind.NATIVE),
    fills_up=False,
    patience=8,
    records_ahead=False,
    # For scores and for activations, in blocks up to twice as large; and as above.
    bytes_per_score=2 * (4 + 4) + 4,
    bytes_per_graph=256 << 10,
)


def graph_policy(device: torch.device, ranks: RankGroup) -> GraphPolicy:
    """That of a device's graphs. On the CPU several ranks sample together behind their graphs."""
    if device.type == "cuda":
        return ON_GPU
    return ON_CPU if ranks.world_size == 1 else replace(ON_CPU, sampling=(SamplingKind.OUTSIDE,))
