"""Recording what a function computes on the CPU, to compute it again by one call into C++.

The C++ operators write themselves down (`ops/cpu/csrc/recording.h`); those of torch are handed to
the same recording by a dispatch mode, so that order and memory are one. A replay holds no lock of
the interpreter, and runs no line of Python.

Whatever the function reads on the host would be the same in every replay. So a function that looks
at a tensor's numbers, or whose shapes depend on them, is refused.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.recording import Recording
from text_generation_shard.runner.step_graph import RecordingRefusedError, StepGraph

_aten = torch.ops.aten
# Give memory, whatever stands there. (What fills it computes.)
_ALLOCATE = {
    _aten.empty,
    _aten.empty_like,
    _aten.empty_strided,
    _aten.new_empty,
    _aten.new_empty_strided,
}
# Their shapes depend on the numbers only where an index is a mask.
_INDEX = {_aten.index, _aten.index_put_}
# Methods of tensors that read them without any operator.
_READ = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


class CpuGraphRecorder:
    """Records graphs that share one memory: only one of them may run at a time."""

    def __init__(self) -> None:
        self._memory = library.recording_memory()

    @property
    def num_bytes(self) -> int:
        """See `GraphRecorder`: what all share. What is written down is little beside it."""
        return self._memory.num_bytes

    def record(self, compute: Callable[[], None]) -> StepGraph:
        """See `GraphRecorder`; the function is called once."""
        recording = self._memory.new_recording()
        recording.begin()
        try:
            with _RefuseReads(), _WriteDown(recording):
                compute()
        finally:
            recording.end()
        return recording

    def show(self, values: Tensor, memory: Tensor) -> Tensor:  # noqa: ARG002
        """See `GraphRecorder`: the values themselves. To hold them would keep other recordings from
        using their block, of which none computes before they are read.
        """
        count = values.untyped_storage().nbytes() // values.element_size()
        block = (ctypes.c_float * count).from_address(values.untyped_storage().data_ptr())
        return torch.frombuffer(block, dtype=torch.float32).as_strided(
            values.shape, values.stride(), values.storage_offset()
        )


class _WriteDown(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operator of torch to a recording."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch's own switch. Where it is on, the first operator imports its compiler and sympy:
        a second of every start, and 100 MB.
        """
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if any(kind is not Tensor for kind in types):
            # Before the first operator, which may leave behind what the last one takes back: a
            # DTensor's embedding does.
            raise RecordingRefusedError(f"{func} of tensors that compute in Python")
        if func.namespace != "aten" or _depends_on_numbers(func, args):
            raise RecordingRefusedError(f"{func} cannot be repeated")
        name, _, overload = func.name().partition(".")
        result = self._recording.call(
            name,
            overload,
            args,
            kwargs or {},
            func.overloadpacket in _ALLOCATE,
        )
        if not all(isinstance(made, Tensor) for made in tree_leaves(result)):
            raise RecordingRefusedError(f"{func} reads a tensor on the host")
        return result


class _RefuseReads(TorchFunctionMode):
    """Refuses what reads tensors past all operators."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in _READ:
            raise RecordingRefusedError(f"Tensor.{func.__name__} reads a tensor on the host")
        return func(*args, **(kwargs or {}))


def _depends_on_numbers(func: Any, args: tuple[object, ...]) -> bool:
    """Whether the shape of an operator's result depends on what its arguments hold."""
    if func.overloadpacket in _INDEX:
        return any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in tree_leaves(args[1])
        )
    if func.overloadpacket is _aten.repeat_interleave:
        return any(isinstance(argument, Tensor) for argument in args[1:])
    tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
    return not tags.isdisjoint(func.tags)
