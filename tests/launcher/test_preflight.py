"""What is checked before anything is started."""

import errno
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from text_generation_launcher import preflight
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.preflight import (
    held_port,
    master_port,
    require_free_port,
    require_own_address,
    shard_sockets,
)
from text_generation_process.endpoint import Endpoint


@pytest.fixture
def busy_port():
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


@pytest.fixture
def folder():
    """Short enough for sockets."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_a_free_port_is_fine(free_port):
    require_free_port("127.0.0.1", free_port)
    require_free_port("0.0.0.0", free_port)


@pytest.mark.parametrize("hostname", ["0.0.0.0", "127.0.0.1"])
def test_a_busy_port_is_named(busy_port, hostname):
    with pytest.raises(LaunchError, match=f"--port {busy_port} is already in use on {hostname}"):
        require_free_port(hostname, busy_port)


def test_a_foreign_address_is_named(free_port):
    with pytest.raises(LaunchError, match=r"--hostname 192\.0\.2\.1 is not an address"):
        require_free_port("192.0.2.1", free_port)


def test_the_master_port_asked_for_is_taken_or_refused(free_port, busy_port):
    with master_port("localhost", free_port) as port:
        assert port == free_port
    with (
        pytest.raises(LaunchError, match=f"--master-port {busy_port} is already in use"),
        master_port("localhost", busy_port),
    ):
        pass


def test_without_asking_the_usual_master_port_gives_way(monkeypatch, free_port, busy_port):
    monkeypatch.setattr(preflight, "DEFAULT_MASTER_PORT", free_port)
    with master_port("localhost", None) as port:
        assert port == free_port
    monkeypatch.setattr(preflight, "DEFAULT_MASTER_PORT", busy_port)
    with master_port("localhost", None) as port:
        assert port not in (busy_port, 0)


def test_launchers_that_start_together_have_master_ports_of_their_own(monkeypatch, free_port):
    """Before their shards listened, all took the usual one; then a shard met those of another."""
    monkeypatch.setattr(preflight, "DEFAULT_MASTER_PORT", free_port)
    with master_port("localhost", None) as one, master_port("localhost", None) as other:
        assert one == free_port != other
        for _ in range(2):  # and when the shard is started again
            with socket.create_server(("localhost", one)) as shard:
                end_a_connection(shard)


def end_a_connection(server):
    """From the server's end: its address lingers for a minute."""
    with socket.create_connection(server.getsockname()):
        server.accept()[0].close()


def test_a_master_port_is_asked_for_again_soon_after_a_server_has_ended(free_port):
    with socket.create_server(("localhost", free_port)) as ended:
        end_a_connection(ended)
    with master_port("localhost", free_port) as port, socket.create_server(("localhost", port)):
        assert port == free_port


def test_a_held_port_is_given_to_nobody_else():
    with held_port("localhost", 0) as port, socket.socket() as other:
        with pytest.raises(OSError, match="already in use"):
            other.bind(("localhost", port))
        assert other.connect_ex(("localhost", port)) == errno.ECONNREFUSED


def test_a_port_is_let_go_where_holding_it_would_keep_the_child_away(monkeypatch):
    """As other systems do than Linux."""
    monkeypatch.setattr(preflight, "_listening_problem", lambda *_: OSError())
    with held_port("localhost", 0) as port, socket.socket() as child:
        child.bind(("localhost", port))


def test_sockets_lie_in_a_private_directory_that_goes_away():
    with shard_sockets(None, 2) as one, shard_sockets(None, 2) as other:
        assert one != other
        directory = Path(one).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        Path(f"{one}-0").touch()
    assert not directory.exists()


def test_what_is_left_of_a_shard_elsewhere_is_removed(folder):
    Endpoint("10.0.0.2:5", "t").write(folder / "s-1")
    with shard_sockets(str(folder / "s"), 2):
        assert not (folder / "s-1").exists()


def test_the_masters_address_is_this_machines(free_port):
    require_own_address("localhost")
    with pytest.raises(LaunchError, match=r"--master-addr 192\.0\.2\.1 is not an address of this"):
        require_own_address("192.0.2.1")
    with pytest.raises(LaunchError, match=r"--master-addr no\.such\.host\.invalid: "):
        require_own_address("no.such.host.invalid")


def test_a_path_asked_for_is_used(folder):
    with shard_sockets(str(folder / "s"), 2) as path:
        assert path == str(folder / "s")
    assert folder.exists()


def test_a_dead_socket_is_removed_and_a_living_one_is_not(folder):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "s-0"))
    left.close()
    with shard_sockets(str(folder / "s"), 1):
        assert not (folder / "s-0").exists()
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(folder / "s-1"))
        living.listen()
        with (
            pytest.raises(LaunchError, match=r"s-1 is in use by another server"),
            shard_sockets(str(folder / "s"), 2),
        ):
            pass
    assert (folder / "s-1").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no/s", "there is no directory"),
        ("x" * 120, "longer than 107 bytes"),
        ("file", "exists and is not a socket"),
    ],
)
def test_a_path_that_cannot_be_used_is_named(folder, path, reason):
    (folder / "file-0").touch()
    with (
        pytest.raises(LaunchError, match=f"--shard-uds-path.*{reason}|{reason}.*--shard-uds-path"),
        shard_sockets(str(folder / path), 1),
    ):
        pass
