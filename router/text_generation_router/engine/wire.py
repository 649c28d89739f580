"""Step plans as protocol messages, and results as plain ints."""

from collections.abc import Callable
from dataclasses import dataclass

from text_generation_proto import shard_pb2

from text_generation_router.engine.request import GenerationRequest, SamplingParameters
from text_generation_router.scheduler.step_plan import (
    Admission,
    StepFailure,
    StepMismatchError,
    StepOutcome,
    StepPlan,
)


@dataclass(frozen=True, slots=True)
class StepReply:
    """All ranks' answers to one step, as one: rank 0's result, and the slowest rank's times."""

    result: shard_pb2.StepResult
    total_us: int
    forward_us: int


def step_request(
    plan: StepPlan, request_of: Callable[[int], GenerationRequest]
) -> shard_pb2.StepRequest:
    """The message for a plan; `request_of` gives the request of an admitted sequence by its id."""
    message = shard_pb2.StepRequest(
        step=plan.step,
        retired_slots=plan.retired_slots,
        work_slots=plan.work_slots,
        work_num_tokens=plan.work_num_tokens,
    )
    if plan.new_block_ids:
        message.work_num_new_blocks.extend(plan.work_num_new_blocks)
        message.new_block_ids.extend(plan.new_block_ids)
    for admission in plan.admissions:
        request = request_of(admission.sequence.sequence_id)
        message.admissions.append(_admission(admission, request))
    return message


def step_outcome(reply: StepReply) -> StepOutcome:
    """What the scheduler learns from a reply. Raises `StepMismatchError` if the result's arrays do
    not fit together: once a token counts, it must reach its client.
    """
    result = reply.result
    _check_arrays(result)
    failure = None
    if result.HasField("error"):
        failure = StepFailure(result.error.message, list(result.error.slots))
    return StepOutcome(
        result.step,
        list(result.token_ids),
        reply.total_us / 1000,
        failure,
        {failed.slot: failed.message for failed in result.failures},
    )


def _check_arrays(result: shard_pb2.StepResult) -> None:
    num_tokens, num_top_n = len(result.token_ids), len(result.top_n_token_ids)
    if len(result.logprobs) != num_tokens:
        raise StepMismatchError(
            f"step {result.step} has {num_tokens} tokens, {len(result.logprobs)} log-probabilities"
        )
    counts = result.top_n_counts
    if counts or num_top_n:
        fits = len(counts) == num_tokens and sum(counts) == num_top_n == len(result.top_n_logprobs)
        if not fits:
            raise StepMismatchError(f"step {result.step} has candidates that do not add up")
    for part in result.prompt_logprobs:
        num_top_n = len(part.top_n_token_ids)
        if num_top_n != len(part.top_n_logprobs) or num_top_n % max(len(part.logprobs), 1):
            raise StepMismatchError(f"candidates of slot {part.slot}'s prompt do not add up")


def _admission(admission: Admission, request: GenerationRequest) -> shard_pb2.Admission:
    return shard_pb2.Admission(
        slot=admission.slot,
        sequence_id=admission.sequence.sequence_id,
        token_ids=admission.token_ids,
        num_emitted=admission.num_emitted,
        num_cached_tokens=admission.num_cached_tokens,
        block_ids=admission.block_ids,
        sampling=_sampling(request.sampling),
        top_n_tokens=request.top_n_tokens,
        prompt_logprobs=admission.prompt_logprobs,
        grammar=request.grammar,
        encoder_token_ids=admission.sequence.encoder_ids,
        encoder_block_ids=admission.encoder_block_ids,
    )


def _sampling(parameters: SamplingParameters) -> shard_pb2.SamplingParameters:
    return shard_pb2.SamplingParameters(
        do_sample=parameters.do_sample,
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        typical_p=parameters.typical_p,
        min_p=parameters.min_p,
        repetition_penalty=parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
        presence_penalty=parameters.presence_penalty,
        watermark=parameters.watermark,
        seed=parameters.seed,
        logit_bias_ids=[token_id for token_id, _ in parameters.logit_bias],
        logit_bias_values=[bias for _, bias in parameters.logit_bias],
    )
