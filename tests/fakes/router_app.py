"""The real HTTP application on a loopback port, over a fake engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry
from text_generation_router.api.limits import RequestLimits
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.http.api_keys import ApiKeys
from text_generation_router.http.app import build_app
from text_generation_router.http.preparation_gate import PreparationGate
from text_generation_router.http.service import ServedModel, Service
from text_generation_router.http.sse import OpenStreams
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.model_files import PromptFiles
from text_generation_router.prompt.tokenizer import TokenizerPool

from tests.fakes.byte_tokenizer import SPECIAL_TOKENS, byte_tokenizer
from tests.fakes.engine import FakeEngine

CHATML = (
    "{%- if tools %}{{ '<|im_start|>system\n' }}"
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}\n"
    "Answer with <tool_call>{...}</tool_call>{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MODEL_ID = "org/model"


def make_limits(**changes: Any) -> RequestLimits:
    """Small limits."""
    values: dict[str, Any] = {
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_top_n_tokens": 5,
        "max_input_tokens": 400,
        "max_total_tokens": 500,
        "max_client_batch_size": 4,
        "prefill_logprobs": False,
        "vocab_size": 256 + len(SPECIAL_TOKENS),
    }
    return RequestLimits(**{**values, **changes})


def make_service(engine: Any, *, template: str | None = CHATML, **changes: Any) -> Service:
    """A service around an engine; changes to limits and to the service itself by name."""
    limit_names = RequestLimits.__dataclass_fields__
    limits = make_limits(**{k: v for k, v in changes.items() if k in limit_names})
    registry = CollectorRegistry()
    values: dict[str, Any] = {
        "engine": engine,
        "is_healthy": engine.health,
        "model": ServedModel(
            model_id=MODEL_ID,
            revision=None,
            version="4.0",
            docker_label=None,
            system_fingerprint="4.0-native",
            compute_type="cpu",
        ),
        "limits": limits,
        "tokenizer": TokenizerPool(byte_tokenizer(), 1),
        "templates": ChatTemplates(
            PromptFiles(
                special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
                chat_templates={} if template is None else {"default": template},
            )
        ),
        "grammars": GrammarCompiler(),
        "metrics": RequestMetrics(
            registry,
            max_input_tokens=limits.max_input_tokens,
            max_total_tokens=limits.max_total_tokens,
        ),
        "registry": registry,
        "streams": OpenStreams(),
        "gate": PreparationGate(),
        "max_concurrent_requests": 128,
        "validation_workers": 1,
        "api_keys": ApiKeys(),
        "cors_allow_origin": (),
        "payload_limit": 100_000,
    }
    values.update({k: v for k, v in changes.items() if k not in limit_names})
    return Service(**values)


@dataclass(frozen=True)
class RunningApp:
    """A client of the application, and what lies behind it."""

    session: ClientSession
    engine: Any
    service: Service
    port: int


@asynccontextmanager
async def running_app(engine: Any = None, **changes: Any) -> AsyncIterator[RunningApp]:
    """Serve until the block ends."""
    engine = FakeEngine() if engine is None else engine
    service = make_service(engine, **changes)
    app: web.Application = build_app(service)
    server = TestServer(app)
    await server.start_server()
    try:
        async with ClientSession(base_url=server.make_url("/")) as session:
            assert server.port is not None
            yield RunningApp(session, engine, service, server.port)
    finally:
        await server.close()
        service.tokenizer.close()
        service.templates.close()
        service.grammars.close()
