"""Groups of ranks over gloo, each in a process of its own, that play a script of steps or call a
function.

A fork server imports torch once for all of them.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from text_generation_proto import shard_pb2 as pb

from tests.fakes.ports import free_port
from tests.shard.engines import warmup_request

if TYPE_CHECKING:
    from text_generation_shard.config import ShardConfig
    from text_generation_shard.distributed import RankGroup
    from text_generation_shard.shard import Shard

_PRELOAD = ["torch", "text_generation_shard.shard", "tests.shard.engines"]


@dataclass(frozen=True)
class RankResults:
    """One rank's answers, and what it said about itself."""

    info: pb.InfoResponse
    warmup: pb.WarmupResponse
    # Per script, its results.
    results: list[list[pb.StepResult]]


def play_on_ranks(
    path: Path,
    scripts: Sequence[Sequence[pb.StepRequest]],
    *,
    world_size: int,
    dtype: str,
    eos_token_ids: Sequence[int] = (),
) -> list[RankResults]:
    """Let every rank compute all steps of all scripts, each script on empty slots."""
    warmup = warmup_request(eos_token_ids=eos_token_ids).SerializeToString()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    port = free_port()
    payload = [[request.SerializeToString() for request in script] for script in scripts]
    children = []
    for rank in range(world_size):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_play, args=(rank, world_size, port, str(path), dtype, warmup, payload, theirs)
        )
        process.start()
        theirs.close()
        children.append((process, ours))
    try:
        return [_receive(connection) for _, connection in children]
    finally:
        for process, connection in children:
            connection.close()
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


def _play(
    rank: int,
    world_size: int,
    port: int,
    path: str,
    dtype: str,
    warmup: bytes,
    payload: list[list[bytes]],
    connection: Connection,
) -> None:
    import torch
    from text_generation_shard.config import RankInfo, ShardConfig
    from text_generation_shard.shard import Shard

    info = RankInfo(rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=port)
    config = ShardConfig(model_path=path, num_threads=1, dtype=dtype)
    with torch.inference_mode():
        shard = Shard.load(config, info)
        connection.send_bytes(shard.info().SerializeToString())
        connection.send_bytes(
            shard.warm_up(pb.WarmupRequest.FromString(warmup)).SerializeToString()
        )
        answers = []
        for script in payload:
            shard.reset()
            requests = map(pb.StepRequest.FromString, script)
            answers.append([shard.step(request).SerializeToString() for request in requests])
        connection.send(answers)
        shard.close()


def _receive(connection: Connection) -> RankResults:
    info = pb.InfoResponse.FromString(connection.recv_bytes())
    warmup = pb.WarmupResponse.FromString(connection.recv_bytes())
    results = [list(map(pb.StepResult.FromString, script)) for script in connection.recv()]
    return RankResults(info, warmup, results)


def call_on_ranks(function: Callable[..., Any], *args: object, world_size: int) -> list[Any]:
    """What function(ranks, *args), a module's, returns on every rank of a group."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    port = free_port()
    with ProcessPoolExecutor(world_size, mp_context=context) as pool:
        calls = [
            pool.submit(_call, rank, world_size, port, function, args) for rank in range(world_size)
        ]
        return [call.result(timeout=120) for call in calls]


def _call(
    rank: int, world_size: int, port: int, function: Callable[..., Any], args: tuple[object, ...]
) -> Any:
    import torch
    from text_generation_shard.config import RankInfo
    from text_generation_shard.distributed import RankGroup

    info = RankInfo(rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=port)
    torch.set_num_threads(1)
    with torch.inference_mode():
        ranks = RankGroup.join(info, torch.device("cpu"))
        try:
            return function(ranks, *args)
        finally:
            ranks.leave()


def loaded_shard(config: "ShardConfig", ranks: "RankGroup") -> "Shard":
    """The shard of a rank that has joined already."""
    from text_generation_shard.config import RankInfo
    from text_generation_shard.distributed import RankGroup
    from text_generation_shard.shard import Shard

    info = RankInfo(
        rank=ranks.rank, world_size=ranks.world_size, master_addr="127.0.0.1", master_port=0
    )
    with mock.patch.object(RankGroup, "join", lambda *_: ranks):
        return Shard.load(config, info)
