"""What every route needs, put together once at start."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from text_generation_router.api.generation import GenerationEngine
from text_generation_router.api.limits import RequestLimits
from text_generation_router.engine.request import Finished
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.http.api_keys import ApiKeys
from text_generation_router.http.preparation_gate import PreparationGate
from text_generation_router.http.sse import OpenStreams
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.observability.request_record import RequestTimes
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.tokenizer import TokenizerPool


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """How the model is named and described to clients."""

    model_id: str
    revision: str | None
    version: str
    docker_label: str | None
    # `<version>-<label of the build>`, OpenAI's `system_fingerprint`.
    system_fingerprint: str
    # Value of the header x-compute-type.
    compute_type: str

    def name_for(self, asked: str | None) -> str:
        """What an answer calls it: as its client did, unless that named none; TGI's say `tgi`."""
        return self.model_id if asked in (None, "tgi") else asked


@dataclass(frozen=True, kw_only=True)
class Service:
    """Owned by the process; the routes read it."""

    engine: GenerationEngine
    # Whether requests are taken and would be answered now.
    is_healthy: Callable[[], Awaitable[bool]]
    model: ServedModel
    limits: RequestLimits
    tokenizer: TokenizerPool
    templates: ChatTemplates
    grammars: GrammarCompiler
    metrics: RequestMetrics
    registry: CollectorRegistry
    streams: OpenStreams
    gate: PreparationGate
    max_concurrent_requests: int
    validation_workers: int
    api_keys: ApiKeys
    cors_allow_origin: Sequence[str]
    payload_limit: int

    def stream_headers(self, prompt_texts: Sequence[str]) -> dict[str, str]:
        """The headers of a stream, known before its first token."""
        return {
            "x-compute-type": self.model.compute_type,
            "x-compute-characters": str(sum(len(text) for text in prompt_texts)),
        }

    def answer_headers(
        self,
        prompt_texts: Sequence[str],
        ends: Sequence[Finished],
        times: RequestTimes,
        *,
        choices_per_prompt: int = 1,
    ) -> Mapping[str, str]:
        """The headers of a whole answer; `ends` has the choices of one prompt next to each
        other, and a prompt counts once.
        """
        num_prompt_tokens = sum(end.num_prompt_tokens for end in ends[::choices_per_prompt])
        return {
            **self.stream_headers(prompt_texts),
            "x-compute-time": repr(times.total),
            "x-total-time": _milliseconds(times.total),
            "x-validation-time": _milliseconds(times.validation),
            "x-queue-time": _milliseconds(times.queue),
            "x-inference-time": _milliseconds(times.inference),
            "x-time-per-token": _milliseconds(times.per_token),
            "x-prompt-tokens": str(num_prompt_tokens),
            "x-generated-tokens": str(sum(end.num_generated_tokens for end in ends)),
        }


def _milliseconds(seconds: float) -> str:
    return str(math.floor(seconds * 1000))
