"""A rank on another node: at its path lies a file that says where, and every call sends a token."""

import grpc.aio
from text_generation_process.endpoint import Endpoint
from text_generation_proto import shard_pb2_grpc
from text_generation_router.engine.info import EngineConfig
from text_generation_router.engine.loop import Engine

from tests.fakes.shard import FakeShard, FakeShardConfig, FakeShards
from tests.router.engine.factories import EOS, generate, word_tokenizer


class Heard(grpc.aio.ServerInterceptor):
    """Writes down each call and the authorization it came with."""

    def __init__(self):
        self.calls = {}

    async def intercept_service(self, continuation, details):
        name = details.method.rpartition("/")[2]
        self.calls[name] = dict(details.invocation_metadata).get("authorization")
        return await continuation(details)


class ShardElsewhere(FakeShard):
    """Listens on TCP."""

    heard: Heard

    async def start(self):
        self.heard = Heard()
        self._server = grpc.aio.server(interceptors=[self.heard])
        shard_pb2_grpc.add_ShardServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        Endpoint(f"127.0.0.1:{port}", "secret").write(self.uds_path)


async def test_a_rank_elsewhere_is_found_by_its_file_and_sent_its_token():
    shards = FakeShards(world_size=2)
    elsewhere = ShardElsewhere(shards.uds_paths[1], FakeShardConfig(), rank=1, world_size=2)
    shards.ranks[1] = elsewhere
    async with shards:
        engine = Engine(EngineConfig(shard_uds_paths=shards.uds_paths), word_tokenizer(), {EOS})
        await engine.start()
        sink = generate(engine, max_new_tokens=5)
        await sink.over()
        assert sink.error is None
        assert await engine.health()
        await engine.stop()
    sent = elsewhere.heard.calls
    assert {"Info", "Warmup", "Run"} <= set(sent)
    assert set(sent.values()) == {"Bearer secret"}
