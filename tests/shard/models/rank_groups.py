"""Ranks in processes of their own, which play scripts on one model after the other."""

import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from text_generation_proto import shard_pb2 as pb

from tests.fakes.ports import free_port
from tests.shard.ranks import _PRELOAD

# Per script, its steps or their results.
Scripts = Sequence[Sequence[bytes]]


def play_models_on_ranks(
    models: Mapping[str, tuple[Path, Sequence[Sequence[pb.StepRequest]]]], *, world_size: int
) -> dict[str, list[list[pb.StepResult]] | str]:
    """Per model, rank 0's answers to its scripts, or the error that ended them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    payload = {
        name: (
            free_port(),
            str(path),
            [[request.SerializeToString() for request in script] for script in scripts],
        )
        for name, (path, scripts) in models.items()
    }
    children = []
    for rank in range(world_size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_play, args=(rank, world_size, payload, theirs))
        process.start()
        theirs.close()
        children.append((process, ours))
    try:
        answers = [connection.recv() for _, connection in children]
    finally:
        for process, connection in children:
            connection.close()
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()
    return {
        name: answer
        if isinstance(answer, str)
        else [list(map(pb.StepResult.FromString, script)) for script in answer]
        for name, answer in answers[0].items()
    }


def _play(
    rank: int,
    world_size: int,
    payload: Mapping[str, tuple[int, str, Scripts]],
    connection: Connection,
) -> None:
    answers: dict[str, Scripts | str] = {}
    for name, (port, path, scripts) in payload.items():
        try:
            answers[name] = _play_model((rank, world_size), port, path, scripts)
        except Exception as error:  # noqa: BLE001  the test of this model reports it
            answers[name] = f"{type(error).__name__}: {error}"
    connection.send(answers)


def _play_model(place: tuple[int, int], port: int, path: str, scripts: Scripts) -> Scripts:
    """place: rank and world size."""
    import torch
    from text_generation_shard.config import RankInfo, ShardConfig
    from text_generation_shard.distributed import RankGroup
    from text_generation_shard.shard import Shard

    from tests.shard.engines import warmup_request

    rank, world_size = place
    info = RankInfo(rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=port)
    config = ShardConfig(model_path=path, num_threads=1)
    with torch.inference_mode():
        try:
            shard = Shard.load(config, info)
            shard.warm_up(warmup_request())
            answers = []
            for script in scripts:
                shard.reset()
                requests = map(pb.StepRequest.FromString, script)
                answers.append([shard.step(request).SerializeToString() for request in requests])
            return answers
        finally:
            RankGroup(rank=rank, world_size=world_size).leave()
