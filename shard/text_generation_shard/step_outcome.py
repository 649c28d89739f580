"""What a step came to, and the message that tells it when the device is done."""

import zlib
from dataclasses import dataclass, field

import torch
from text_generation_proto import shard_pb2 as pb
from torch import Tensor

from text_generation_shard.runner.device_work import DeviceWork
from text_generation_shard.sampling import no_numbers
from text_generation_shard.sampling.sampler import SampledTokens


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the device computed in one step."""

    # None where no item sampled. The ids are equal on all ranks; the rest only rank 0 knows.
    sampled: SampledTokens | None
    forward_us: int
    # Sequences whose grammar failed; what they sampled means nothing.
    failures: list[pb.SequenceFailure] = field(default_factory=list)
    prompt_logprobs: list[pb.PromptLogprobs] = field(default_factory=list)
    # Whether the sampled tokens stand behind the known ones already.
    is_advanced: bool = False
    # Whether a graph computed the layers.
    is_replayed: bool = False

    @property
    def sampled_ids(self) -> Tensor:
        """int64 [sampled], work order."""
        if self.sampled is None:
            return torch.empty(0, dtype=torch.int64)
        return self.sampled.token_ids


def host_tensors(outcome: StepOutcome, *, is_worker: bool) -> list[Tensor]:
    """As `step_result` reads them: token ids, int32; on rank 0 also what is known of the tokens."""
    tensors = [outcome.sampled_ids.int()]
    if outcome.sampled is not None and not is_worker:
        tensors.append(outcome.sampled.logprobs)
        if (top := outcome.sampled.top_tokens) is not None:
            tensors += [top.counts, top.token_ids, top.logprobs]
    return tensors


def step_result(
    step: int,
    outcome: StepOutcome,
    work: DeviceWork,
    *,
    slots: list[int],
    is_worker: bool,
    num_graphs: int,
) -> pb.StepResult:
    """The outcome as a message, when it is there; ranks above 0 report the checksum only. slots: of
    the rows that were sampled.
    """
    token_ids, *details = work.wait()
    result = pb.StepResult(
        step=step,
        forward_us=outcome.forward_us,
        sampled_checksum=zlib.crc32(token_ids.numpy().astype("<u4").tobytes()),
        num_graphs=num_graphs,
        is_replayed=outcome.is_replayed,
    )
    if details:
        logprobs, *top_tokens = (values.tolist() for values in details)
        result.token_ids.extend(token_ids.tolist())
        result.failures.extend(outcome.failures)
        result.failures.extend(no_numbers.failures(slots, logprobs))
        result.logprobs.extend(logprobs)
        if top_tokens:
            counts, top_ids, top_logprobs = top_tokens
            result.top_n_counts.extend(counts)
            result.top_n_token_ids.extend(top_ids)
            result.top_n_logprobs.extend(top_logprobs)
    if not is_worker:
        result.prompt_logprobs.extend(outcome.prompt_logprobs)
    result.total_us = work.microseconds
    return result
