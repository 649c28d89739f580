"""What "auto" becomes."""

import re
import stat

import pytest
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.devices import VisibleGpus, visible_gpus
from text_generation_launcher.resolve import fitting_num_shard, resolve
from text_generation_process.options import OptionError

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
FOUR_GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program in the place of nvidia-smi, or none."""

    def install(source):
        monkeypatch.setenv("PATH", str(tmp_path))
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + source)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


@pytest.mark.parametrize(
    ("sharded", "num_shard", "environment", "expected"),
    [
        (True, None, FOUR_GPUS, 4),
        (True, 3, NO_GPU, 3),
        (False, 2, FOUR_GPUS, 2),
        (False, None, FOUR_GPUS, 1),
        (None, None, FOUR_GPUS, 4),
        (None, None, NO_GPU, 1),
        (None, 2, NO_GPU, 2),
    ],
)
def test_the_number_of_shards(sharded, num_shard, environment, expected):
    config = LauncherConfig(sharded=sharded, num_shard=num_shard)
    assert resolve(config, environment).num_shard == expected


@pytest.mark.parametrize(
    ("num_shard", "environment", "expected"),
    [
        (None, NO_GPU, [0, 1]),
        (8, NO_GPU, [0, 1, 2, 3]),
        (None, FOUR_GPUS, [0, 1, 2, 3]),
    ],
)
def test_nodes_share_the_ranks_in_order(num_shard, environment, expected):
    """A number is of all nodes, GPUs are this one's."""
    config = LauncherConfig(
        num_shard=num_shard, nnodes=2, master_addr="10.0.0.1", node_secret="x" * 16
    )
    resolved = resolve(config, environment)
    num_local = resolved.num_shard // 2
    assert list(resolved.ranks(0)) == expected[:num_local]
    assert list(resolved.ranks(1)) == [num_local + rank for rank in range(num_local)]
    assert not resolved.is_num_shard_inferred


@pytest.mark.parametrize("num_shard", [None, 1])
def test_sharded_needs_two(num_shard):
    config = LauncherConfig(sharded=True, num_shard=num_shard)
    with pytest.raises(OptionError, match="--sharded true needs"):
        resolve(config, NO_GPU)


def test_an_inferred_number_fits_the_heads():
    assert fitting_num_shard(8, 12) == 6
    assert fitting_num_shard(4, 8) == 4
    assert fitting_num_shard(3, 1) == 1
    assert resolve(LauncherConfig(), FOUR_GPUS).is_num_shard_inferred
    assert not resolve(LauncherConfig(num_shard=3), FOUR_GPUS).is_num_shard_inferred


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "0,1"}, 1),
        ({"NVIDIA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, 0),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 2),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, 2),
        ({}, 2),
    ],
)
def test_visible_gpus(nvidia_smi, environment, count):
    nvidia_smi("echo 'GPU 0: A (UUID: a)\n  MIG 1g Device 0: (UUID: m)\nGPU 1: A (UUID: b)'\n")
    assert visible_gpus(environment).count == count


def test_without_nvidia_smi_there_is_no_gpu(nvidia_smi):
    assert visible_gpus({}) == VisibleGpus(0, "nvidia-smi")


def test_a_failing_nvidia_smi_is_told(nvidia_smi, caplog):
    nvidia_smi("exit 9\n")
    assert visible_gpus({}).count == 0
    assert "nvidia-smi failed" in caplog.text


def test_rope_scaling_and_factor_complete_each_other():
    def rope(**options):
        resolved = resolve(LauncherConfig(**options), NO_GPU)
        return resolved.rope_scaling, resolved.rope_factor

    assert rope() == (None, None)
    assert rope(rope_factor=2.0) == ("linear", 2.0)
    assert rope(rope_scaling="dynamic") == ("dynamic", 1.0)
    assert rope(rope_scaling="dynamic", rope_factor=4.0) == ("dynamic", 4.0)


def test_the_older_name_of_max_input_tokens():
    assert resolve(LauncherConfig(max_input_length=9), NO_GPU).max_input_tokens == 9
    assert resolve(LauncherConfig(max_input_tokens=9), NO_GPU).max_input_tokens == 9


@pytest.mark.parametrize(
    ("hostname", "address"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "::1"), ("[::]", "::")],
)
def test_addresses(hostname, address):
    assert resolve(LauncherConfig(hostname=hostname), NO_GPU).hostname == address


def test_a_containers_name_is_nothing_to_listen_on(caplog):
    """Docker sets HOSTNAME to the container's id; it must not keep the server from starting."""
    environment = {**NO_GPU, "HOSTNAME": "3f2a9c"}
    assert resolve(LauncherConfig(hostname="3f2a9c"), environment).hostname == "0.0.0.0"
    assert "HOSTNAME=3f2a9c" in caplog.text


def test_a_name_that_somebody_asked_for_is_refused():
    with pytest.raises(OptionError, match="--hostname must be an IP address"):
        resolve(LauncherConfig(hostname="example.org"), NO_GPU)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"cuda_memory_fraction": 0.5}, "--cuda-memory-fraction 0.5"),
        ({"cuda_graphs": (1, 8)}, "--cuda-graphs 1,8"),
        ({"all_reduce": "nccl"}, "--all-reduce nccl"),
        ({"attention": "triton"}, "--attention triton"),
        ({"attention": "flash"}, "--attention flash"),
        ({"attention": "cudnn"}, "--attention cudnn"),
    ],
)
def test_what_only_a_gpu_can_do_needs_one(options, asked):
    """NCCL was not used in silence, and attention refused only when the model was loaded."""
    config = LauncherConfig(**options)
    assert resolve(config, FOUR_GPUS).num_shard == 4
    with pytest.raises(OptionError, match=f"^{re.escape(asked)}: no GPU is visible$"):
        resolve(config, NO_GPU)


def test_what_names_no_gpu_needs_none():
    config = LauncherConfig(cuda_graphs=(0,), attention="flashinfer", all_reduce="auto")
    assert resolve(config, NO_GPU).num_shard == 1
