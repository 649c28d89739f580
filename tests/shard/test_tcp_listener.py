"""A shard for a router on another node: who is served, and how it is found."""

import queue
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from text_generation_process.endpoint import Endpoint
from text_generation_proto import shard_pb2 as pb
from text_generation_proto import shard_pb2_grpc as pb_grpc
from text_generation_shard.compute_thread import ComputeThread
from text_generation_shard.config import RankInfo
from text_generation_shard.errors import SocketError
from text_generation_shard.node_address import interface_of, node_address
from text_generation_shard.server import ShardServicer, start_tcp_server

from tests.shard.test_server import ScriptedShard, steps


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Endpoint]:
    """A shard that listens on TCP, and what it says of that."""
    compute = ComputeThread()
    compute.start()
    servicer = ShardServicer(ScriptedShard(), compute, queue.SimpleQueue())  # type: ignore[arg-type]
    server = start_tcp_server(servicer, "127.0.0.1", tmp_path / "s-1", "the token")
    assert stat.S_IMODE((tmp_path / "s-1").stat().st_mode) == 0o600
    endpoint = Endpoint.at(tmp_path / "s-1")
    assert endpoint is not None and endpoint.token == "the token"
    yield endpoint
    server.stop(1).wait()
    assert compute.stop(5)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "the token"),),
        (("authorization", "Bearer the toke"),),
        (("authorization", "Bearer "),),
        (("token", "Bearer the token"),),
    ],
)
def test_on_tcp_nobody_is_served_without_the_token(
    elsewhere: Endpoint, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(elsewhere.address) as channel:
        stub = pb_grpc.ShardStub(channel)
        for call in (
            lambda: stub.Info(pb.InfoRequest(), metadata=metadata),
            lambda: stub.Health(pb.HealthRequest(), metadata=metadata),
            lambda: stub.Warmup(pb.WarmupRequest(), metadata=metadata),
            lambda: list(stub.Run(iter(steps(1)), metadata=metadata)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_on_tcp_the_token_opens(elsewhere: Endpoint) -> None:
    with grpc.insecure_channel(elsewhere.address) as channel:
        stub = pb_grpc.ShardStub(channel)
        info = stub.Info(pb.InfoRequest(), metadata=elsewhere.metadata)
        assert info.model_type == "scripted"
        results = stub.Run(iter(steps(1, 2)), metadata=elsewhere.metadata)
        assert [result.step for result in results] == [1, 2]


def test_an_address_that_is_not_ours_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match=r"cannot listen on 192\.0\.2\.1"):
        start_tcp_server(pb_grpc.ShardServicer(), "192.0.2.1", tmp_path / "s-1", "t")  # type: ignore[arg-type]


def test_the_way_to_rank_0_names_address_and_interface() -> None:
    here = RankInfo(rank=1, world_size=2, master_addr="localhost", master_port=29500)
    assert node_address(here) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None
