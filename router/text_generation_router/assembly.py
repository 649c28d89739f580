"""What a router is put together from: the model's files, and the service that the routes share."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from text_generation_router.api.limits import RequestLimits
from text_generation_router.config import VERSION, RouterConfig
from text_generation_router.engine.info import EngineInfo
from text_generation_router.engine.loop import Engine
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.marks import MarkSpelling
from text_generation_router.http.api_keys import ApiKeyError, ApiKeys, read_api_keys
from text_generation_router.http.preparation_gate import PreparationGate
from text_generation_router.http.service import ServedModel, Service
from text_generation_router.http.sse import OpenStreams
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.model_files import (
    ModelFileError,
    OptionFileError,
    PromptFiles,
    read_prompt_files,
)
from text_generation_router.prompt.tokenizer import AnyTokenizer, TokenizerPool, load_tokenizer
from text_generation_router.start_error import OptionRefusedError, StartError


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """All that the router needs of a model's directory."""

    tokenizer: AnyTokenizer
    templates: ChatTemplates
    eos_token_ids: frozenset[int]


def read_model(config: RouterConfig) -> ModelFiles:
    """Read the model's directory; `StartError` names the file that cannot be used."""
    directory = Path(config.model_path)
    if not directory.is_dir():
        raise OptionRefusedError(f"--model-path: there is no directory {directory}")
    settings = config.tokenizer_config_path
    try:
        files = read_prompt_files(directory, None if settings is None else Path(settings))
        tokenizer = load_tokenizer(directory, files.added_tokens)
        return ModelFiles(
            tokenizer=tokenizer,
            templates=ChatTemplates(files),
            eos_token_ids=_eos_token_ids(files, tokenizer),
        )
    except OptionFileError as error:
        raise OptionRefusedError(str(error)) from error
    except ModelFileError as error:
        raise StartError(str(error)) from error


def build_service(
    config: RouterConfig,
    engine: Engine,
    model: ModelFiles,
    registry: CollectorRegistry,
    is_healthy: Callable[[], Awaitable[bool]],
) -> Service:
    """The service of a started engine."""
    limits = _request_limits(config, engine.info)
    tokenizer = TokenizerPool(model.tokenizer, config.validation_workers)
    return Service(
        engine=engine,
        is_healthy=is_healthy,
        model=_served_model(config, engine.info, os.environ),
        limits=limits,
        tokenizer=tokenizer,
        templates=model.templates,
        grammars=GrammarCompiler(
            engine.info.grammar_refusal,
            MarkSpelling(
                tokenizer.added_ids,
                tokenizer.special_texts,
                min(tokenizer.num_ids, engine.info.vocab_size),
            ),
        ),
        metrics=RequestMetrics(
            registry,
            max_input_tokens=limits.max_input_tokens,
            max_total_tokens=limits.max_total_tokens,
        ),
        registry=registry,
        streams=OpenStreams(),
        gate=PreparationGate(),
        max_concurrent_requests=config.max_concurrent_requests,
        validation_workers=config.validation_workers,
        api_keys=_api_keys(config),
        cors_allow_origin=config.cors_allow_origin,
        payload_limit=config.payload_limit,
    )


def _eos_token_ids(files: PromptFiles, tokenizer: AnyTokenizer) -> frozenset[int]:
    """Every token that ends a sequence: the model's, and the tokenizer's (chat models often have
    their end of turn only there).
    """
    name = files.special_tokens.get("eos_token")
    token_id = None if name is None else tokenizer.token_to_id(name)
    return files.eos_token_ids | ({token_id} if token_id is not None else frozenset())


def _api_keys(config: RouterConfig) -> ApiKeys:
    try:
        return read_api_keys(config.api_key, config.api_key_file)
    except ApiKeyError as error:
        raise OptionRefusedError(str(error)) from error


def _request_limits(config: RouterConfig, info: EngineInfo) -> RequestLimits:
    return RequestLimits(
        max_best_of=config.max_best_of,
        max_stop_sequences=config.max_stop_sequences,
        max_top_n_tokens=config.max_top_n_tokens,
        max_input_tokens=info.max_input_tokens,
        max_total_tokens=info.max_total_tokens,
        max_client_batch_size=config.max_client_batch_size,
        prefill_logprobs=config.enable_prefill_logprobs,
        vocab_size=info.vocab_size,
        decoder_start_token_id=info.decoder_start_token_id,
    )


def _served_model(
    config: RouterConfig, info: EngineInfo, environment: Mapping[str, str]
) -> ServedModel:
    label = environment.get("DOCKER_LABEL")
    return ServedModel(
        model_id=config.model_id or config.model_path,
        revision=config.revision,
        version=VERSION,
        docker_label=label,
        system_fingerprint=f"{VERSION}-{label or 'native'}",
        compute_type=environment.get("COMPUTE_TYPE", f"{info.world_size}-{info.device_type}"),
    )
