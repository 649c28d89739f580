"""What becomes of a row whose scores are not numbers: its sequence fails, and no other."""

import logging
import math
from collections.abc import Sequence

from text_generation_proto import shard_pb2 as pb

logger = logging.getLogger(__name__)

_MESSAGE = (
    "the model's scores are not numbers (NaN or infinite): its weights are damaged, or the data "
    "type's range does not suffice"
)


def failures(slots: Sequence[int], logprobs: Sequence[float]) -> list[pb.SequenceFailure]:
    """Those of a step's rows. A sampler's log-probability is NaN where one of a row's scores is no
    number (see `SampledTokens`), and its token then means nothing.

    slots: of the sampled rows; logprobs: theirs.
    """
    failed = [slot for slot, value in zip(slots, logprobs, strict=True) if math.isnan(value)]
    if failed:
        logger.error("%d of %d sequences of a step: %s", len(failed), len(slots), _MESSAGE)
    return [pb.SequenceFailure(slot=slot, message=_MESSAGE) for slot in failed]
