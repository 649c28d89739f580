"""The life of a router process: load, connect, listen, serve, drain.

Order of effects: the port is reserved first (a port in use is told before a model is loaded), and
clients can connect only once the engine is ready. At the end new work is refused, running streams
finish within the grace time, then the port closes and the engine stops. A second signal skips the
grace.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from text_generation_router.api.limits import RequestLimits
from text_generation_router.config import VERSION, RouterConfig
from text_generation_router.engine.info import EngineConfig, EngineInfo, EngineStartError
from text_generation_router.engine.loop import Engine
from text_generation_router.engine.shard_client import ShardError
from text_generation_router.http.app import build_app
from text_generation_router.http.service import ServedModel, Service
from text_generation_router.http.sse import OpenStreams
from text_generation_router.observability.engine_metrics import EngineMetrics, SchedulerCollector
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.model_files import (
    ModelFileError,
    PromptFiles,
    read_prompt_files,
)
from text_generation_router.prompt.tokenizer import TokenizerPool, load_tokenizer

logger = logging.getLogger("text_generation_router")

# How long connections may take to close after the last answer was sent.
_CLOSE_SECONDS = 2.0
_BACKLOG = 1024


class StartError(Exception):
    """The router cannot start; the text is one line for whoever started it."""


class Server:
    """Owns everything that serves: socket, engine, threads, application."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._stop_requests: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._is_draining = False

    async def run(self) -> int:
        """Serve until a signal comes or the engine fails; returns the exit code."""
        listener = _reserve_port(self._config.hostname, self._config.port)
        try:
            self._listen_to_signals()
            return await self._run_engine(listener)
        finally:
            listener.close()

    async def _run_engine(self, listener: socket.socket) -> int:
        config = self._config
        files, tokenizer = _read_model(config)
        registry = CollectorRegistry()
        engine = Engine(
            EngineConfig.from_router(config),
            tokenizer,
            eos_token_ids(files, tokenizer),
            EngineMetrics(registry),
        )
        try:
            if not await self._start_engine(engine):
                return 0
            registry.register(SchedulerCollector(engine.stats, engine.info.block_size))
            return await self._serve(engine, files, tokenizer, registry, listener)
        finally:
            await engine.stop()

    async def _start_engine(self, engine: Engine) -> bool:
        """Wait for the shards; False if a signal came first."""
        starting = asyncio.create_task(engine.start())
        stopping = asyncio.create_task(self._stop_requests.get())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return False
        stopping.cancel()
        try:
            await starting
        except (ShardError, EngineStartError) as error:
            raise StartError(str(error)) from error
        return True

    async def _serve(
        self,
        engine: Engine,
        files: PromptFiles,
        tokenizer: Tokenizer,
        registry: CollectorRegistry,
        listener: socket.socket,
    ) -> int:
        service = self._service(engine, files, tokenizer, registry)
        runner = web.AppRunner(
            build_app(service),
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        service.streams.start()
        try:
            try:
                await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            except OSError as error:
                raise StartError(_port_message(self._config, error)) from error
            gc.collect()
            gc.freeze()
            self._log_ready(engine.info)
            return await self._until_over(engine)
        finally:
            service.streams.stop()
            await runner.cleanup()
            service.tokenizer.close()

    async def _until_over(self, engine: Engine) -> int:
        """Wait for a signal or the engine's end; leave with all clients answered or told."""
        stopping = asyncio.create_task(self._stop_requests.get())
        failing = asyncio.create_task(engine.failed.wait())
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        failing.cancel()
        if not stopping.done():
            stopping.cancel()
            logger.error("the engine failed: %s", engine.failure)
            # Streams have their error event by now; let it reach the network.
            await asyncio.sleep(0)
            return 1
        await self._drain(engine, stopping.result())
        return 0

    async def _drain(self, engine: Engine, cause: signal.Signals) -> None:
        self._is_draining = True
        grace = self._config.graceful_termination_timeout
        logger.info("%s: finishing running requests within %g s", cause.name, grace)
        draining = asyncio.create_task(engine.drain(grace))
        forcing = asyncio.create_task(self._stop_requests.get())
        await asyncio.wait({draining, forcing}, return_when=asyncio.FIRST_COMPLETED)
        if forcing.done():
            logger.warning("%s again: not waiting any longer", forcing.result().name)
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
            return
        forcing.cancel()
        if not draining.result():
            logger.warning("requests were still running after %g s and were ended", grace)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_requests.put_nowait, number)

    def _service(
        self,
        engine: Engine,
        files: PromptFiles,
        tokenizer: Tokenizer,
        registry: CollectorRegistry,
    ) -> Service:
        config = self._config
        limits = _request_limits(config, engine.info)

        async def is_healthy() -> bool:
            return not self._is_draining and await engine.health()

        return Service(
            engine=engine,
            is_healthy=is_healthy,
            model=_served_model(config, engine.info, os.environ),
            limits=limits,
            tokenizer=TokenizerPool(tokenizer, config.validation_workers),
            templates=_templates(files),
            metrics=RequestMetrics(
                registry,
                max_input_tokens=limits.max_input_tokens,
                max_total_tokens=limits.max_total_tokens,
            ),
            registry=registry,
            streams=OpenStreams(),
            max_concurrent_requests=config.max_concurrent_requests,
            validation_workers=config.validation_workers,
            api_key=config.api_key,
            cors_allow_origin=config.cors_allow_origin,
            payload_limit=config.payload_limit,
        )

    def _log_ready(self, info: EngineInfo) -> None:
        fields = {
            "model_type": info.model_type,
            "dtype": info.dtype,
            "device": info.device_type,
            "shards": info.world_size,
            "max_input_tokens": info.max_input_tokens,
            "max_total_tokens": info.max_total_tokens,
            "max_batch_total_tokens": info.max_batch_total_tokens,
        }
        address = f"{self._config.hostname}:{self._config.port}"
        logger.info("Connected, serving on %s", address, extra={"fields": fields})


def eos_token_ids(files: PromptFiles, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends a sequence: the model's, and the tokenizer's (chat models often have
    their end of turn only there).
    """
    name = files.special_tokens.get("eos_token")
    token_id = None if name is None else tokenizer.token_to_id(name)
    return files.eos_token_ids | ({token_id} if token_id is not None else frozenset())


def _read_model(config: RouterConfig) -> tuple[PromptFiles, Tokenizer]:
    directory = Path(config.model_path)
    if not directory.is_dir():
        raise StartError(f"--model-path: there is no directory {directory}")
    settings = config.tokenizer_config_path
    try:
        files = read_prompt_files(directory, None if settings is None else Path(settings))
        return files, load_tokenizer(directory)
    except ModelFileError as error:
        raise StartError(str(error)) from error


def _templates(files: PromptFiles) -> ChatTemplates:
    try:
        return ChatTemplates(files)
    except ModelFileError as error:
        raise StartError(str(error)) from error


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


def _reserve_port(hostname: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connecting to it is refused."""
    try:
        address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(address[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
    except OSError as error:
        raise StartError(
            f"cannot listen on {hostname}:{port}: {error.strerror or error}"
        ) from error
    return listener


def _port_message(config: RouterConfig, error: OSError) -> str:
    return f"cannot listen on {config.hostname}:{config.port}: {error.strerror or error}"
