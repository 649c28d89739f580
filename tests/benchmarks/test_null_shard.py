"""The benchmark's null shard keeps the protocol: one token for each sequence that is read to its
end.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from text_generation_proto import shard_pb2, shard_pb2_grpc

from benchmarks.null_shard import FIRST_TOKEN_ID, NullShard


@pytest.fixture
async def stub() -> AsyncIterator[shard_pb2_grpc.ShardStub]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    server = grpc.aio.server()
    shard = NullShard(step_s=0.0, vocab_size=1024, max_length=128)
    shard_pb2_grpc.add_ShardServicer_to_server(shard, server)
    server.add_insecure_port(f"unix:{folder}/shard")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/shard") as channel:
        yield shard_pb2_grpc.ShardStub(channel)
    await server.stop(None)
    shutil.rmtree(folder)


async def test_samples_where_the_known_tokens_end(stub: shard_pb2_grpc.ShardStub) -> None:
    info = await stub.Info(shard_pb2.InfoRequest())
    assert (info.vocab_size, info.max_position_embeddings) == (1024, 128)
    warmup = await stub.Warmup(shard_pb2.WarmupRequest(max_step_tokens=64, block_size=16))
    assert (warmup.block_size, warmup.max_total_tokens) == (16, 128)
    call = stub.Run()
    prompt = shard_pb2.Admission(slot=3, token_ids=[7] * 5, num_cached_tokens=1)
    for request in (
        shard_pb2.StepRequest(step=1, admissions=[prompt], work_slots=[3], work_num_tokens=[2]),
        shard_pb2.StepRequest(step=2, work_slots=[3], work_num_tokens=[2]),
        shard_pb2.StepRequest(step=3, work_slots=[3], work_num_tokens=[1]),
        shard_pb2.StepRequest(step=4, retired_slots=[3]),
    ):
        await call.write(request)
    results = [await call.read() for _ in range(4)]
    assert [result.step for result in results] == [1, 2, 3, 4]
    assert [list(result.token_ids) for result in results] == [
        [],
        [FIRST_TOKEN_ID],
        [FIRST_TOKEN_ID + 1],
        [],
    ]
    assert (await stub.Health(shard_pb2.HealthRequest())).last_step == 4
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
