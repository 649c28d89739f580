"""A GPU made of CPU memory, as strict as one: what would fail there, or make the host wait, fails.

Tensors of the device `cuda` hold a CPU tensor each, and every function of torch that is given one
comes through here; Triton's kernels run in its interpreter. So the server's own code for GPUs runs
whole: the shard's choice of device, warmup, recording, replays. Known to be refused are

- tensors of different devices in one function, as indices too, and host tensors given to a kernel;
- from when `forbid_waiting` is called, what waits for the device, and copies from memory that is
  not pinned, which wait as well;
- in a recording: the same, any copy between host and device, and the first launch of a kernel in a
  variant that was not launched before, for its code would be loaded.

Copies that nobody waits for are made as late as they may be: when an event behind them is waited
for, or before something is computed or read. Until then the host can spoil pinned memory that a
copy reads, as it could with a GPU. New memory holds no numbers.

A graph is the functions and launches that were recorded, with the memory that they had: a replay
computes them again, after all that they made was overwritten, and nothing else. `launched` names
the variants of kernels that would have been compiled.
"""

import contextlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from triton.runtime import interpreter

DEVICE = torch.device("cuda", 0)
_TOTAL_BYTES = 1 << 30

# Functions that wait for the device to know a value or a shape.
_WAITING = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "masked_select", "unique", "unique_consecutive", "bincount", "equal", "allclose"),
    *("argwhere", "__contains__", "__array__", "histc", "is_nonzero"),
}
_COPIES = {"to", "copy_", "cuda"}
_NEW = {"empty", "new_empty", "empty_like"}
# With which nothing is computed.
_VIEWS = {"view", "narrow", "t", "transpose", "unbind", "split"}
_READS = {"__get__", "size", "stride", "dim", "numel", "is_contiguous", "data_ptr", "element_size"}
_READS |= {"storage_offset", "untyped_storage", "__len__", "is_floating_point", "__repr__"}


class DeviceTensor(Tensor):
    """A tensor of the device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, _gpu: "VirtualGpu") -> "DeviceTensor":
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype
        )
        return made

    def __init__(self, inner: Tensor, gpu: "VirtualGpu") -> None:
        self.inner, self.gpu = inner, gpu

    device = property(lambda _: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, _ = tree_flatten((args, kwargs))
        gpu = next(each.gpu for each in flat if isinstance(each, DeviceTensor))
        return gpu.call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} reached the device past its interface")


@dataclass
class Recording:
    """Functions and launches in their order; made: memory that they got."""

    calls: list[Callable[[], None]] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    def poison(self) -> None:
        for each in self.made:
            _spoil(each)

    def replay(self) -> None:
        self.poison()
        for call in self.calls:
            call()


class VirtualGpu(TorchFunctionMode):
    """Takes part while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.recording: Recording | None = None
        self.may_wait = True
        self.sync_debug_mode: int | str = 0
        self.launched: set[tuple[Any, ...]] = set()
        # Of the host's memory, what is pinned, used or not.
        self.pinned_bytes = 0
        self._pinned: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._late: deque[Callable[[], Any]] = deque()
        self._num_late = 0

    def forbid_waiting(self) -> None:
        """From now on: steps are served."""
        self.may_wait = False

    @property
    def num_late(self) -> int:
        """How many copies may be late until now."""
        return self._num_late

    def catch_up(self, num_late: int | None = None) -> None:
        """Make the first so many of the copies that may be late, or all."""
        left = 0 if num_late is None else self._num_late - num_late
        with torch._C.DisableTorchFunction():
            while len(self._late) > left:
                self._late.popleft()()

    def give_back_pinned(self) -> None:
        """Unpin what nobody uses."""
        self.pinned_bytes = sum(each.nbytes for each in self._pinned.values())

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of torch."""
        flat, _ = tree_flatten((args, kwargs))
        operands = [each for each in flat if isinstance(each, DeviceTensor)]
        name = getattr(func, "__name__", str(func))
        if name == "pin_memory":
            return self._pin(args[0])
        kwargs = dict(kwargs)
        if not operands and kwargs.pop("pin_memory", False):
            return self._pin(func(*args, **kwargs))
        target = next((each for each in flat if _is_device(each)), None)
        if name in _COPIES:
            return self._copy(func, args, kwargs, target)
        if target is None and not operands:
            return func(*args, **kwargs)
        if not operands and torch.device(target).type != "cuda":
            return func(*args, **kwargs)
        if name in _WAITING or (name == "tensor" and not operands):
            self._wait(name)
        if name in ("item", "tolist", "numpy", "cpu") or name.startswith("__array"):
            self.catch_up()
            return func(*map(_unwrapped, args), **kwargs)
        if name in ("__getitem__", "__setitem__"):
            self._check_index(args)
        elif name not in _READS:
            _check_same_device(name, flat)
        return self._run(name, func, args, _on_cpu(kwargs))

    def _run(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        inner_args, inner_kwargs = tree_map(_unwrapped, (tuple(args), kwargs))
        inner_args = tuple(_on_cpu_device(each) for each in inner_args)
        if name == "__iter__":
            return iter(self.call(torch.unbind, args, {}))
        if not _computes_nothing(name, args):
            self.catch_up()
        with torch._C.DisableTorchFunction():
            result = func(*inner_args, **inner_kwargs)
            if name in _NEW:
                _spoil(result)
        if name in _READS and not isinstance(result, Tensor):
            return result
        known = {id(each.inner): each for each in tree_flatten(args)[0] if _is_ours(each)}
        if self.recording is not None:
            self._record(func, inner_args, inner_kwargs, result)

        def wrapped(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            return known[id(each)] if id(each) in known else DeviceTensor(each, self)

        return tree_map(wrapped, result)

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        assert self.recording is not None
        outputs = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
        given = {
            each.untyped_storage().data_ptr()
            for each in tree_flatten((args, kwargs))[0]
            if isinstance(each, Tensor)
        }
        new = [
            (place, each)
            for place, each in enumerate(outputs)
            if each.untyped_storage().data_ptr() not in given
        ]
        if outputs and not new and not func.__name__.endswith("_"):
            return  # views

        def again() -> None:
            with torch._C.DisableTorchFunction():
                fresh = tree_flatten(func(*args, **kwargs))[0]
                fresh = [each for each in fresh if isinstance(each, Tensor)]
                for place, each in new:
                    each.copy_(fresh[place])

        self.recording.made += [each for _, each in new]
        self.recording.calls.append(again)

    def launch(self, kernel: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """A Triton kernel."""
        named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        for name, value in named.items():
            if isinstance(value, Tensor) and not isinstance(value, DeviceTensor):
                raise AssertionError(f"{kernel.__name__}: {name} is a tensor of the host")
        grid = kwargs["grid"]
        if 0 in grid or any(size >= 1 << 16 for size in grid[1:]):
            raise AssertionError(f"{kernel.__name__}: a grid of {grid}")
        self.catch_up()
        variant = _variant(kernel, named)
        if self.recording is not None and variant not in self.launched:
            raise AssertionError(f"{kernel.__name__} is compiled in a recording: {variant}")
        self.launched.add(variant)
        inner_args, inner_kwargs = tree_map(_unwrapped, (args, kwargs))

        def again() -> None:
            with torch._C.DisableTorchFunction():
                run(kernel, *inner_args, **inner_kwargs)

        again()
        if self.recording is not None:
            self.recording.calls.append(again)

    def _pin(self, values: Tensor) -> Tensor:
        pinned = values.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        self.pinned_bytes += pinned.nbytes
        return pinned

    def _wait(self, what: str) -> None:
        if self.recording is not None or not self.may_wait or self.sync_debug_mode == "error":
            raise AssertionError(f"{what} waits for the device")

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: Any, target: Any) -> Any:
        """Between devices, or to another dtype."""
        is_to = func.__name__ != "copy_"
        if is_to and len(args) > 1 and isinstance(args[1], Tensor):
            target = args[1].device
            args = (args[0], target, args[1].dtype, *args[2:])
        source = args[0] if is_to else args[1]
        destination = DEVICE if func.__name__ == "cuda" else target
        if is_to and (destination is None or torch.device(destination).type == source.device.type):
            if not _is_ours(source):
                return func(*args, **kwargs)
            return self._run("to", func, args, _on_cpu(kwargs))
        is_ours = torch.device(destination).type == "cuda" if is_to else _is_ours(args[0])
        if not is_to and _is_ours(source) == is_ours:
            if is_ours and self._late and args[0].shape == source.shape:
                self._make_late(args[0], source)
                return args[0]
            return self._run("copy_", func, args, kwargs) if is_ours else func(*args, **kwargs)
        if self.recording is not None:
            raise AssertionError("a copy between host and device is recorded")
        host = _unwrapped(source if is_ours else args[0])
        address = host.untyped_storage().data_ptr()
        is_pinned = not is_ours or address in self._pinned or host.numel() == 0
        is_late = kwargs.get("non_blocking") and is_pinned
        if not is_late:
            self._wait("a copy that is blocking, or from memory that is not pinned,")
        if is_to:
            dtypes = (each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype))
            with torch._C.DisableTorchFunction():
                made = torch.empty_like(_unwrapped(source), dtype=next(dtypes, source.dtype))
            args = (DeviceTensor(made, self) if is_ours else made, source)
        self._make_late(*args[:2])
        if not (is_late and is_ours):
            self.catch_up()
        return args[0]

    def _make_late(self, destination: Tensor, source: Tensor) -> None:
        made, given = _unwrapped(destination), _unwrapped(source)
        self._late.append(lambda: made.copy_(given))
        self._num_late += 1

    def _check_index(self, args: tuple[Any, ...]) -> None:
        """A tensor of the device is read or written at indices of the device, and no mask."""
        if not _is_ours(args[0]):
            raise AssertionError("a tensor of the host is indexed by one of the device")
        for each in tree_flatten(args[1])[0]:
            if not isinstance(each, Tensor):
                continue
            if not _is_ours(each):
                self._wait("an index of the host")
            if each.dtype in (torch.bool, torch.uint8):
                self._wait("an index by a mask")
        if len(args) > 2 and isinstance(args[2], Tensor) and not _is_ours(args[2]):
            self._wait("to put a tensor of the host")


def _is_ours(each: Any) -> bool:
    return isinstance(each, DeviceTensor)


def _is_device(each: Any) -> bool:
    return isinstance(each, torch.device) or (isinstance(each, str) and each in ("cuda", "cpu"))


def _computes_nothing(name: str, args: tuple[Any, ...]) -> bool:
    if name == "__getitem__":
        places = args[1] if isinstance(args[1], tuple) else (args[1],)
        return not any(isinstance(each, Tensor | list) for each in places)
    return name in _NEW | _VIEWS | _READS


def _spoil(memory: Tensor) -> None:
    if memory.is_floating_point() and memory.dtype.itemsize > 1:
        memory.fill_(float("nan"))


def _unwrapped(each: Any) -> Any:
    return each.inner if isinstance(each, DeviceTensor) else each


def _on_cpu_device(each: Any) -> Any:
    return torch.device("cpu") if isinstance(each, torch.device) else each


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": "cpu"} if kwargs.get("device") is not None else kwargs


def _check_same_device(name: str, operands: list[Any]) -> None:
    """As torch: numbers of no dimension may be the host's."""
    for each in operands:
        if isinstance(each, Tensor) and not _is_ours(each) and each.dim() > 0:
            raise AssertionError(f"{name}: a tensor of the host beside one of the device")


def _variant(kernel: Any, named: dict[str, Any]) -> tuple[Any, ...]:
    """What Triton compiles anew for: see `triton.runtime.jit.specialize_impl`."""
    executor = interpreter.GridExecutor(kernel.fn, kernel.arg_names, ())
    options = [(name, named[name]) for name in ("num_warps", "num_stages") if name in named]
    free = kernel.kwargs.get("do_not_specialize") or ()
    unaligned = kernel.kwargs.get("do_not_specialize_on_alignment") or ()
    found: list[Any] = [kernel.__name__, *options]
    for name in kernel.arg_names:
        value = named[name]
        if name in executor.constexprs or value is None:
            found.append((name, str(value)))
        elif isinstance(value, Tensor):
            address = _unwrapped(value).data_ptr()
            found.append((name, value.dtype, name in unaligned or address % 16 == 0))
        elif isinstance(value, int) and not isinstance(value, bool):
            width = 32 if -(1 << 31) <= value < 1 << 31 else 64
            special = () if name in free else (value == 1, value % 16 == 0)
            found.append((name, width, *special))
        else:
            found.append((name, type(value).__name__))
    return tuple(found)


class _Event:
    gpu: VirtualGpu

    def __init__(self, enable_timing: bool = False) -> None:
        del enable_timing
        self._at = 0.0
        self._num_late = 0

    def record(self, _stream: Any = None) -> None:
        self._at = time.perf_counter()
        self._num_late = self.gpu.num_late

    def synchronize(self) -> None:
        self.gpu.catch_up(self._num_late)

    def query(self) -> bool:
        self.synchronize()
        return True

    def elapsed_time(self, later: "_Event") -> float:
        return (later._at - self._at) * 1000


class _Stream:
    def __init__(self, _device: Any = None) -> None:
        pass

    def wait_stream(self, _other: "_Stream") -> None:
        pass


class _Generator(torch.Generator):
    """Of the device."""

    def __new__(cls, _device: Any = None) -> "_Generator":
        return super().__new__(cls)


class _Graph:
    gpu: VirtualGpu

    def __init__(self) -> None:
        self.recording = Recording()

    def replay(self) -> None:
        self.gpu.catch_up()
        with torch._C.DisableTorchFunction():
            self.recording.replay()


@contextlib.contextmanager
def virtual_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualGpu]:
    """The only GPU of this machine, while this lasts."""
    gpu = VirtualGpu()
    run = interpreter.InterpretedFunction.run
    stream = _Stream()

    @contextlib.contextmanager
    def graph(made: _Graph, **_: Any) -> Iterator[None]:
        gpu.catch_up()
        gpu.recording = made.recording
        try:
            yield
        finally:
            gpu.recording = None
            made.recording.poison()

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        gpu.launch(self, run, args, kwargs)

    def synchronize(_: Any = None) -> None:
        gpu._wait("synchronize")
        gpu.catch_up()

    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda _: None,
        "device": lambda _: contextlib.nullcontext(),
        "get_device_capability": lambda _: (9, 0),
        "get_device_properties": lambda _: SimpleNamespace(multi_processor_count=132),
        "mem_get_info": lambda _: (_TOTAL_BYTES, _TOTAL_BYTES),
        "memory_reserved": lambda _: 0,
        "max_memory_reserved": lambda _: 1 << 20,
        "reset_peak_memory_stats": lambda _: None,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "Event": type("Event", (_Event,), {"gpu": gpu}),
        "Stream": _Stream,
        "current_stream": lambda _=None: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "graph_pool_handle": object,
        "CUDAGraph": type("CUDAGraph", (_Graph,), {"gpu": gpu}),
        "graph": graph,
        "get_sync_debug_mode": lambda: gpu.sync_debug_mode,
        "set_sync_debug_mode": lambda mode: setattr(gpu, "sync_debug_mode", mode),
    }
    with monkeypatch.context() as patch, gpu:
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch._C, "_host_emptyCache", gpu.give_back_pinned, raising=False)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(interpreter.InterpretedFunction, "run", launch)
        yield gpu
