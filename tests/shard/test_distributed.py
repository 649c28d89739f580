"""How ranks meet, and how one learns that the others are gone."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from text_generation_shard import distributed
from text_generation_shard.config import RankInfo
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CollectiveError, RendezvousError

CPU = torch.device("cpu")


def rank_info(address: str, port: int) -> RankInfo:
    return RankInfo(rank=0, world_size=2, master_addr=address, master_port=port)


def test_a_rank_alone_needs_nobody() -> None:
    ranks = RankGroup.join(RankInfo(rank=0, world_size=1, master_addr="", master_port=0), CPU)
    values = torch.arange(6.0).view(2, 3)
    assert ranks.all_reduce(values) is values
    assert ranks.gather_columns(values) is values
    assert ranks.broadcast(values) is values
    assert (ranks.minimum(3), ranks.maximum(4)) == (3, 4)
    ranks.leave()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RendezvousError, match=f"MASTER_PORT 127.0.0.1:{port}: Address already"):
            RankGroup.join(rank_info("127.0.0.1", port), CPU)


def test_an_unknown_address_is_named() -> None:
    with pytest.raises(RendezvousError, match=r"MASTER_ADDR no\.such\.host\.invalid"):
        RankGroup.join(rank_info("no.such.host.invalid", 1), CPU)


def test_between_nodes_gloo_takes_the_way_to_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it would take the interface of this machine's name."""
    monkeypatch.setattr(distributed, "_is_loopback", lambda _: False)
    monkeypatch.setattr(distributed, "TCPStore", lambda **_: None)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    elsewhere = RankInfo(rank=1, world_size=2, master_addr="127.0.0.1", master_port=1)
    distributed._rendezvous(elsewhere)
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == "lo"


def test_rank_0_listens_at_the_address_of_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_is_loopback", lambda _: False)
    monkeypatch.setattr(distributed, "interface_of", lambda _: None)
    with pytest.raises(RendezvousError, match=r"192\.0\.2\.1:1: Cannot assign requested"):
        distributed._rendezvous(rank_info("192.0.2.1", 1))


def test_nccl_takes_its_memory_before_the_cache_is_sized(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def zeros(*shape: int, device: torch.device) -> torch.Tensor:
        calls.append(device)
        return torch.empty(shape)

    monkeypatch.setattr(dist, "init_process_group", lambda **options: calls.append(options))
    monkeypatch.setattr(distributed, "_rendezvous", lambda _: None)
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(dist, "all_reduce", lambda *_: calls.append("first collective"))
    monkeypatch.setattr(dist, "all_to_all_single", lambda *_: calls.append("first words"))
    monkeypatch.delenv("NCCL_GRAPH_MIXING_SUPPORT", raising=False)
    gpu = torch.device("cuda", 1)
    RankGroup.join(rank_info("localhost", 1), gpu)
    assert isinstance(calls[0], dict) and calls[0]["backend"] == "cpu:gloo,cuda:nccl"
    assert calls[0]["device_id"] == gpu and calls[1:] == [
        *(gpu, "first collective"),
        *(gpu, "first words"),
    ]
    assert os.environ["NCCL_GRAPH_MIXING_SUPPORT"] == "0"


def test_lost_ranks_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("[/src/pair.cc:537] Read error: Connection reset. This is typically ...")

    monkeypatch.setattr(dist, "all_reduce", broken)
    with pytest.raises(CollectiveError) as caught:
        RankGroup(rank=1, world_size=2).all_reduce(torch.zeros(1))
    assert str(caught.value) == "lost the other ranks: Read error: Connection reset"
