"""A shard at its socket, with no router between: prefill is one step of all prompts, and then every
step decodes one token of each. As under the router, the next step is sent before the last one's
result is back.

A shard serves one step stream: this one would end a router's, and its warmup takes the cache away.
So a shard that serves is refused.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
from text_generation_process.socket_file import SocketFile
from text_generation_proto import shard_pb2, shard_pb2_grpc
from text_generation_router.engine.shard_client import ShardError, ShardGroup

from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.errors import BenchmarkError
from text_generation_benchmark.prompts import random_ids, text_ids
from text_generation_benchmark.timing import RunTime

_ANSWER_TIMEOUT_S = 30.0
_BLOCK_SIZE = 16
# The scrap block is never given to a sequence.
_FIRST_BLOCK = 1


class ShardTarget:
    """Owns the step stream. Use it inside an event loop."""

    def __init__(self, config: BenchmarkConfig) -> None:
        self._config = config
        self._source = random.Random(0)
        self._shards: ShardGroup | None = None
        self._answered = asyncio.Event()
        self._prompt: list[int] | None = None
        self._info = shard_pb2.InfoResponse()
        self._num_blocks = 0
        self._step = 0
        self._retired: range | tuple[()] = ()

    async def describe(self) -> dict[str, str]:
        """What the shard says of itself, warmed up for the largest batch."""
        config = self._config
        if config.tokenizer_name is not None:
            self._prompt = text_ids(config.tokenizer_name, config.revision, config.sequence_length)
        self._info = await self._ask()
        self._check_model()
        paths = _rank_paths(config.master_shard_uds_path, self._info.world_size)
        self._shards = ShardGroup(paths, self._answered.set)
        try:
            await self._shards.connect(_ANSWER_TIMEOUT_S)
            warmup = await self._shards.warm_up(self._warmup_request())
        except ShardError as error:
            raise BenchmarkError(
                f"batch size {max(config.batch_sizes)} at {self._length} tokens each cannot be "
                f"run: {error}"
            ) from error
        self._num_blocks = warmup.num_blocks
        self._check_cache()
        self._shards.open()
        return {
            "Model": config.tokenizer_name or self._info.model_type,
            "Shard": config.master_shard_uds_path,
            "Dtype": self._info.dtype,
            "Device": self._info.device_type,
            "Ranks": str(self._info.world_size),
        }

    async def run(self, batch_size: int) -> RunTime:
        """Prefill and all decodes of one batch; its slots are given up with the next one's."""
        assert self._shards is not None
        steps = self._steps(batch_size)
        try:
            begin = time.perf_counter()
            self._shards.send(next(steps))
            await self._receive(batch_size)
            prefilled = time.perf_counter()
            self._shards.send(next(steps))
            for step in steps:
                self._shards.send(step)
                await self._receive(batch_size)
            await self._receive(batch_size)
            end = time.perf_counter()
        except ShardError as error:
            raise BenchmarkError(f"batch size {batch_size}: {error}") from error
        return RunTime(
            prefill_s=prefilled - begin,
            decode_s=end - prefilled,
            num_decoded_tokens=batch_size * self._config.num_decodes,
        )

    async def close(self) -> None:
        if self._shards is not None:
            await self._shards.close()

    @property
    def _length(self) -> int:
        """Tokens of a sequence at its end."""
        return self._config.sequence_length + self._config.decode_length

    @property
    def _has_encoder(self) -> bool:
        return self._info.HasField("decoder_start_token_id")

    @property
    def _blocks_per_sequence(self) -> int:
        """With an encoder the prompt's keys and values lie in a table of their own."""
        config = self._config
        if not self._has_encoder:
            return _blocks_for(self._length)
        return _blocks_for(config.sequence_length) + _blocks_for(1 + config.decode_length)

    async def _ask(self) -> shard_pb2.InfoResponse:
        """Rank 0's facts, if it is free."""
        path = self._config.master_shard_uds_path
        if SocketFile.at(path) is None:
            raise BenchmarkError(
                f"no socket at {path}: name a shard's by --master-shard-uds-path, or a running "
                "server by --url"
            )
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub: Any = shard_pb2_grpc.ShardStub(channel)  # type: ignore[no-untyped-call]
            try:
                health = await stub.Health(shard_pb2.HealthRequest(), timeout=_ANSWER_TIMEOUT_S)
                info: shard_pb2.InfoResponse = await stub.Info(
                    shard_pb2.InfoRequest(), timeout=_ANSWER_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                raise BenchmarkError(
                    f"no shard answers at {path}: {error.code().name} {error.details()}"
                ) from error
        if health.has_step_stream:
            raise BenchmarkError(
                f"the shard at {path} serves a router, which would lose it: measure that server "
                "by --url, or a shard of its own (text-generation-server serve)"
            )
        return info

    def _check_model(self) -> None:
        longest = self._info.max_position_embeddings
        if longest and self._length > longest:
            config = self._config
            raise BenchmarkError(
                f"--sequence-length {config.sequence_length} with --decode-length "
                f"{config.decode_length}: the model has {longest} positions"
            )
        vocab_size = self._info.vocab_size
        if self._prompt is not None and max(self._prompt) >= vocab_size:
            raise BenchmarkError(
                f"--tokenizer-name {self._config.tokenizer_name} is not the model's: token "
                f"{max(self._prompt)} is not in its vocabulary of {vocab_size}"
            )

    def _warmup_request(self) -> shard_pb2.WarmupRequest:
        """As much as the largest batch needs, prompts in one step, and no more."""
        config = self._config
        largest = max(config.batch_sizes)
        rows = config.sequence_length + self._has_encoder
        return shard_pb2.WarmupRequest(
            max_slots=largest,
            max_step_tokens=max(largest * rows, largest + _BLOCK_SIZE),
            max_total_tokens=self._length,
            block_size=_BLOCK_SIZE,
            max_cache_tokens=largest * self._blocks_per_sequence * _BLOCK_SIZE,
            max_top_n_tokens=config.top_n_tokens or 0,
        )

    def _check_cache(self) -> None:
        wanted = max(self._config.batch_sizes) * self._blocks_per_sequence
        if wanted > self._num_blocks - _FIRST_BLOCK:
            held = (self._num_blocks - _FIRST_BLOCK) * _BLOCK_SIZE
            raise BenchmarkError(
                f"batch size {max(self._config.batch_sizes)} at {self._length} tokens each needs "
                f"{wanted * _BLOCK_SIZE} tokens of cache, the shard has room for {held}"
            )

    def _steps(self, batch_size: int) -> Iterator[shard_pb2.StepRequest]:
        """The prefill, then the decodes."""
        slots = range(batch_size)
        rows = 1 if self._has_encoder else self._config.sequence_length
        self._step += 1
        yield shard_pb2.StepRequest(
            step=self._step,
            retired_slots=self._retired,
            admissions=[self._admission(slot) for slot in slots],
            work_slots=slots,
            work_num_tokens=[rows] * batch_size,
        )
        self._retired = slots
        for _ in range(self._config.num_decodes):
            self._step += 1
            yield shard_pb2.StepRequest(
                step=self._step, work_slots=slots, work_num_tokens=[1] * batch_size
            )

    def _admission(self, slot: int) -> shard_pb2.Admission:
        """A sequence with all the blocks that it will need."""
        config, info = self._config, self._info
        first = _FIRST_BLOCK + slot * self._blocks_per_sequence
        blocks = range(first, first + self._blocks_per_sequence)
        prompt = self._prompt or random_ids(self._source, config.sequence_length, info.vocab_size)
        admission = shard_pb2.Admission(
            slot=slot,
            sequence_id=slot + 1,
            sampling=self._sampling(seed=slot),
            top_n_tokens=config.top_n_tokens or 0,
        )
        if self._has_encoder:
            num_encoder_blocks = _blocks_for(config.sequence_length)
            admission.token_ids.append(info.decoder_start_token_id)
            admission.encoder_token_ids.extend(prompt)
            admission.encoder_block_ids.extend(blocks[:num_encoder_blocks])
            blocks = blocks[num_encoder_blocks:]
        else:
            admission.token_ids.extend(prompt)
        admission.block_ids.extend(blocks)
        return admission

    def _sampling(self, seed: int) -> shard_pb2.SamplingParameters:
        config = self._config
        off = {"temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0}
        given = config.sampling()
        given.pop("top_n_tokens", None)
        return shard_pb2.SamplingParameters(
            **off | given | {"do_sample": config.samples, "seed": seed}
        )

    async def _receive(self, batch_size: int) -> None:
        assert self._shards is not None
        while (reply := self._shards.take_reply()) is None:
            self._answered.clear()
            await self._answered.wait()
        result = reply.result
        if result.HasField("error"):
            raise BenchmarkError(f"batch size {batch_size}: {result.error.message}")
        if len(result.token_ids) != batch_size:
            raise BenchmarkError(
                f"the shard sampled {len(result.token_ids)} tokens for {batch_size} sequences"
            )


def _blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // _BLOCK_SIZE)


def _rank_paths(master: str, world_size: int) -> list[str]:
    """The sockets of all ranks: rank 0's path ends in -0."""
    if world_size == 1:
        return [master]
    stem, dash, rank = master.rpartition("-")
    if (dash, rank) != ("-", "0"):
        raise BenchmarkError(
            f"{master} is rank 0 of {world_size}: to find the others, its path must end in -0"
        )
    paths = [f"{stem}-{number}" for number in range(world_size)]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise BenchmarkError(f"no socket of a further rank at {', '.join(missing)}")
    return paths
