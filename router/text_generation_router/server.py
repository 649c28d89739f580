"""The life of a router process: load, connect, listen, serve, drain.

Order of effects: the port is reserved first (a port in use is told before a model is loaded), and
clients can connect only once the engine is ready. At the end new work is refused, running streams
finish within the grace time, then the port closes and the engine stops. A second signal skips the
grace.
"""

import asyncio
import gc
import logging
import signal
import socket

from aiohttp import web
from prometheus_client import CollectorRegistry

from text_generation_router.assembly import ModelFiles, build_service, read_model
from text_generation_router.config import RouterConfig
from text_generation_router.engine.info import EngineConfig, EngineInfo, EngineStartError
from text_generation_router.engine.loop import Engine
from text_generation_router.engine.shard_client import ShardError, ShardOptionError
from text_generation_router.http.app import build_app
from text_generation_router.listener import listen_error, reserve_port
from text_generation_router.observability.engine_metrics import EngineMetrics, SchedulerCollector
from text_generation_router.start_error import OptionRefusedError, StartError

logger = logging.getLogger("text_generation_router")

# How long connections may take to close after the last answer was sent.
_CLOSE_SECONDS = 2.0
_BACKLOG = 1024


class Server:
    """Owns everything that serves: socket, engine, threads, application."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._stop_requests: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._is_draining = False

    async def run(self) -> int:
        """Serve until a signal comes or the engine fails; returns the exit code."""
        listener = reserve_port(self._config.hostname, self._config.port)
        try:
            self._listen_to_signals()
            return await self._run_engine(listener)
        finally:
            listener.close()

    async def _run_engine(self, listener: socket.socket) -> int:
        config = self._config
        model = read_model(config)
        registry = CollectorRegistry()
        engine = Engine(
            EngineConfig.from_router(config),
            model.tokenizer,
            model.eos_token_ids,
            EngineMetrics(registry),
        )
        try:
            if not await self._start_engine(engine):
                return 0
            registry.register(SchedulerCollector(engine.stats, engine.info.block_size))
            return await self._serve(engine, model, registry, listener)
        finally:
            await engine.stop()

    async def _start_engine(self, engine: Engine) -> bool:
        """Wait for the shards; False if a signal came first."""
        starting = asyncio.create_task(engine.start())
        stopping = asyncio.create_task(self._stop_requests.get())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return False
        stopping.cancel()
        try:
            await starting
        except (ShardOptionError, EngineStartError) as error:
            raise OptionRefusedError(str(error)) from error
        except ShardError as error:
            raise StartError(str(error)) from error
        return True

    async def _serve(
        self,
        engine: Engine,
        model: ModelFiles,
        registry: CollectorRegistry,
        listener: socket.socket,
    ) -> int:
        async def is_healthy() -> bool:
            return not self._is_draining and await engine.health()

        service = build_service(self._config, engine, model, registry, is_healthy)
        runner = web.AppRunner(
            build_app(service),
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        service.streams.start()
        _settle_memory()
        try:
            try:
                await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            except OSError as error:
                raise listen_error(self._config.hostname, self._config.port, error) from error
            self._log_ready(engine.info)
            return await self._until_over(engine)
        finally:
            service.streams.stop()
            await runner.cleanup()
            service.tokenizer.close()
            service.templates.close()
            service.grammars.close()

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
            # Tells every client before the connections close.
            await engine.stop()
            return
        forcing.cancel()
        if not draining.result():
            logger.warning("requests were still running after %g s and were ended", grace)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_requests.put_nowait, number)

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


def _settle_memory() -> None:
    """Take what start-up made out of the collector's sight, and let it run rarely: a full pass
    would show as a gap in every stream.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
