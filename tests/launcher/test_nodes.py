"""Several nodes: who may join, what is said, and what is left when one is gone."""

import asyncio
import json
import signal
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from text_generation_launcher import node_link, nodes
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Origin
from text_generation_launcher.model import Model, fingerprint
from text_generation_launcher.node_link import Link, LinkError, LinkRefusedError
from text_generation_launcher.node_member import NodeMember
from text_generation_launcher.node_shards import NodeShards
from text_generation_launcher.node_terms import node_terms
from text_generation_launcher.nodes import Nodes, RemoteShardCommand
from text_generation_launcher.preparation import Setting
from text_generation_launcher.progress import ProgressDisplay
from text_generation_launcher.resolve import resolve
from text_generation_launcher.signals import StopSignals
from text_generation_process.endpoint import Endpoint

from tests.fakes.children import script
from tests.fakes.ports import free_port

SECRET = "a secret of some length"
ENDPOINT = {"rank": 1, "address": "10.0.0.2:4711", "token": "t"}
# Stands for a shard: says where it listens, and waits.
_SHARD = """
import os, sys, time
with open(sys.argv[1] + ".tmp", "w") as file:
    file.write('{"address": "127.0.0.1:1", "token": "t"}')
os.replace(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(600)
"""


class Group:
    """Node 0 of two, and what the other one needs."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.model = Model(folder / "model", "model")
        self.model.path.mkdir()
        (self.model.path / "config.json").write_text("{}")
        (self.model.path / "model.safetensors").write_bytes(bytes(100_000))
        self.socket = folder / "shard-1"
        self.stop = StopSignals()
        self.nodes = Nodes(node_terms(self.setting(0)), SECRET, self.stop)

    def setting(self, node_rank: int, **options: object) -> Setting:
        defaults = {
            "model_id": str(self.model.path),
            "nnodes": 2,
            "node_rank": node_rank,
            "master_addr": "127.0.0.1",
            "master_port": self.port,
            "node_secret": SECRET,
            "node_timeout": 20.0,
        }
        config = LauncherConfig(**(defaults | options))
        return Setting(
            config=config,
            environment={},
            resolved=resolve(config, {"CUDA_VISIBLE_DEVICES": ""}),
            stop=StopSignals(),
            progress=ProgressDisplay(enabled=False),
        )

    def listening(self):
        return self.nodes.listening("127.0.0.1", self.port)

    @asynccontextmanager
    async def joined(self, **options):
        """Another node's end of the line, of which node 0 knows all."""
        link = await Link.join("127.0.0.1", self.port, SECRET)
        try:
            link.send(node_terms(self.setting(1, **options)).message())
            answer = await link.receive()
            if "refusal" in answer:
                raise LinkRefusedError(answer["refusal"])
            link.send({"prepared": fingerprint(self.model), "name": "model"})
            yield link
        finally:
            await link.close()

    async def remote_shard(self):
        command = RemoteShardCommand(
            nodes=self.nodes, node_rank=1, rank=1, socket=self.socket, rendezvous_port=5
        )
        return await command.start(LogRelay())


@pytest.fixture
async def group(tmp_path):
    return Group(tmp_path)


async def appears(path):
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_shard_of_another_node_is_a_process_like_others(group):
    async with group.listening(), group.joined() as link:
        await group.nodes.gathered(group.model, 20)
        shard = await group.remote_shard()
        assert await link.receive() == {"start": 1, "port": 5}
        link.send(ENDPOINT)
        await appears(group.socket)
        assert Endpoint.at(group.socket) == Endpoint("10.0.0.2:4711", "t")
        assert stat.S_IMODE(group.socket.stat().st_mode) == 0o600
        shard.terminate()
        assert await link.receive() == {"terminate": 1}
        shard.kill()
        assert await link.receive() == {"kill": 1}
        assert shard.is_running
        link.send({"rank": 1, "code": -9, "last_words": "alas"})
        ending = await shard.exited()
        assert not shard.is_running
        assert ending.how.startswith("was killed by SIGKILL") and ending.how.endswith(": alas")
        group.nodes.exit_code = 0
    assert str(ending.origin) == "shard 1"


async def test_a_lost_node_takes_its_shards_along_and_may_come_again(group):
    async with group.listening():
        async with group.joined() as link:
            await group.nodes.gathered(group.model, 20)
            shard = await group.remote_shard()
            await link.receive()
        assert "node 1 is gone" in (await shard.exited()).how
        again = await group.remote_shard()
        await asyncio.sleep(0.05)
        assert again.is_running, "it waits for its node"
        async with group.joined() as link:
            assert await link.receive() == {"start": 1, "port": 5}
        await again.exited()


async def test_a_node_that_does_not_even_kill_is_given_up(group, monkeypatch):
    monkeypatch.setattr(nodes, "_UNRESPONSIVE_SECONDS", 0.1)
    async with group.listening(), group.joined() as link:
        await group.nodes.gathered(group.model, 20)
        shard = await group.remote_shard()
        await link.receive()
        shard.kill()
        assert (await shard.exited()).how == "is lost: node 1 does not answer"
        with pytest.raises(LinkError):
            while True:
                await link.receive()


async def test_a_shard_whose_node_never_came_ends_when_asked(group):
    async with group.listening():
        shard = await group.remote_shard()
        shard.terminate()
        assert (await shard.exited()).code == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_shard": 4}, "--num-shard is 4 on node 1, 2 on node 0"),
        ({"nnodes": 3, "node_rank": 2}, "--nnodes is 3 on node 2, 2 on node 0"),
        ({"dtype": "float16"}, "--dtype is float16 on node 1, not given on node 0"),
        ({"cuda_graphs": (0,)}, "--cuda-graphs is 0 on node 1, not given on node 0"),
    ],
)
async def test_a_node_with_other_options_is_refused_by_flag(group, options, named):
    options = {"node_rank": 1, "node_timeout": 5.0} | options
    async with group.listening():
        with pytest.raises(LaunchError, match=f"node 0 refuses this node: {named}"):
            await NodeMember(group.setting(**options)).run()


async def test_a_node_that_is_there_already_is_refused(group):
    async with group.listening(), group.joined():
        with pytest.raises(LinkRefusedError, match="--node-rank 1: that node is here already"):
            async with group.joined():
                pass


async def test_another_secret_is_refused_on_both_sides(group, monkeypatch):
    async with group.listening():
        with pytest.raises(LaunchError, match="--node-secret is another here"):
            await NodeMember(group.setting(1, node_secret="x" * 16)).run()
    monkeypatch.setattr(node_link, "_proof", lambda *_: "0" * 64)

    async def impostor(reader, writer):
        await Link.accept(reader, writer, "whatever")

    async with await asyncio.start_server(impostor, "127.0.0.1", group.port):
        monkeypatch.undo()
        with pytest.raises(LaunchError, match="refuses this node: --node-secret is another"):
            await NodeMember(group.setting(1)).run()


async def test_another_model_is_refused(group, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").write_bytes(bytes(99_999) + b"x")
    async with group.listening():
        gathering = asyncio.create_task(group.nodes.gathered(group.model, 20))
        with pytest.raises(LaunchError, match=f"other files in {other} than node 0 has .--model-"):
            await NodeMember(group.setting(1, model_id=str(other))).run()
        group.stop.ask("test")
        await gathering


async def test_who_says_nothing_sensible_is_let_go(group, caplog):
    async with group.listening():
        reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
        await reader.readline()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
    assert "refused 127.0.0.1" in caplog.text


async def test_nodes_that_do_not_come_are_named(group):
    async with group.listening():
        with pytest.raises(LaunchError, match=r"--nnodes 2: node 1 did not come within 0\.05 s"):
            await group.nodes.gathered(group.model, 0.05)


async def test_no_node_0_is_named(group):
    member = NodeMember(group.setting(1, node_timeout=0.05))
    with pytest.raises(
        LaunchError, match=f"no node 0 at --master-addr 127.0.0.1 --master-port {group.port}"
    ):
        await member.run()


async def test_a_port_in_use_is_named(group):
    async with group.listening():
        with pytest.raises(LaunchError, match=f"--master-port {group.port}: .*address already in"):
            async with group.listening():
                pass


async def test_a_signal_while_node_0_is_waited_for_ends_in_order(group):
    setting = group.setting(1)
    running = asyncio.create_task(NodeMember(setting).run())
    await asyncio.sleep(0.05)
    setting.stop.receive(signal.SIGTERM)
    assert await running == 0


@pytest.mark.parametrize("code", [0, 1])
async def test_a_node_ends_as_node_0_does(group, code):
    async with group.listening():
        running = asyncio.create_task(NodeMember(group.setting(1)).run())
        await group.nodes.gathered(group.model, 20)
        group.nodes.exit_code = code
    assert await running == code


async def test_a_node_that_is_asked_to_stop_asks_node_0(group):
    setting = group.setting(1)
    async with group.listening():
        running = asyncio.create_task(NodeMember(setting).run())
        await group.nodes.gathered(group.model, 20)
        setting.stop.receive(signal.SIGTERM)
        await asyncio.wait_for(group.stop.requested.wait(), 20)
        assert not running.done(), "the server drains first"
        group.nodes.exit_code = 0
    assert await running == 0


async def test_a_node_without_node_0_ends_with_an_error(group):
    async def dies(reader, writer):
        link = await Link.accept(reader, writer, SECRET)
        await link.receive()
        link.send({"welcome": True})
        await link.receive()  # prepared
        link.abort()

    async with await asyncio.start_server(dies, "127.0.0.1", group.port):
        with pytest.raises(LaunchError, match="node 0 is gone"):
            await NodeMember(group.setting(1)).run()


async def test_a_nodes_shards_are_reported_and_end_with_it(group):
    heard = asyncio.Queue()

    async def node_0(reader, writer):
        link = await Link.accept(reader, writer, SECRET)
        while True:
            heard.put_nowait(await link.receive())

    async with await asyncio.start_server(node_0, "127.0.0.1", group.port):
        link = await Link.join("127.0.0.1", group.port, SECRET)
        shards = NodeShards(link, LogRelay())
        await shards.start(1, script(Origin("shard", 1), _SHARD, str(group.socket)), group.socket)
        assert await heard.get() == {"rank": 1, "address": "127.0.0.1:1", "token": "t"}
        shards.kill(1)
        ending = await heard.get()
        assert (ending["rank"], ending["code"]) == (1, -9)
        bad = "import sys; print('no weights', file=sys.stderr); sys.exit(3)"
        await shards.start(1, script(Origin("shard", 1), bad), group.socket)
        assert not group.socket.exists(), "the last one's is removed first"
        assert await heard.get() == {"rank": 1, "code": 3, "last_words": "no weights"}
        await shards.start(1, script(Origin("shard", 1), _SHARD, str(group.socket)), group.socket)
        await heard.get()
        await shards.end()
        assert (await heard.get())["code"] == -15
        await link.close()


def test_a_file_that_is_no_endpoint_is_none(tmp_path):
    for text in ("", "{}", "[1]", json.dumps({"address": 1})):
        (tmp_path / "s").write_text(text)
        assert Endpoint.at(tmp_path / "s") is None
    assert Endpoint.at(tmp_path / "none") is None
    Endpoint("a:1", "secret").write(tmp_path / "s")
    assert Endpoint.at(tmp_path / "s") == Endpoint("a:1", "secret")
    assert "secret" not in repr(Endpoint("a:1", "secret"))
