"""Which of torch's operators a decode step computes with: those that are left beside ours."""

from collections.abc import Callable
from typing import Any

from text_generation_shard.shard import Shard
from torch.utils._python_dispatch import TorchDispatchMode

from tests.shard.models.families import OTHER, PROMPT
from tests.shard.step_script import StepScript

# They make room, or take a tensor as it is.
_COMPUTES_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "detach_"}


class _Listening(TorchDispatchMode):
    """Views and room for results aside."""

    def __init__(self, heard: set[str]) -> None:
        super().__init__()
        self._heard = heard

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _COMPUTES_NOTHING:
            self._heard.add(name)
        return func(*args, **(kwargs or {}))


def torch_operators(shard: Shard, **admission: Any) -> set[str]:
    """Those that a decode step of two sequences computes with, from embedding to logits."""
    script = StepScript()
    for slot, prompt in enumerate((PROMPT, OTHER)):
        script.admit(slot, prompt, **admission)
    script.step({0: len(PROMPT), 1: len(OTHER)})
    script.decode([0, 1], 2)
    *before, decode = script.requests
    for request in before:
        shard.step(request)
    assert shard._engine is not None
    model, heard = shard._engine._model, set[str]()

    def listening(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with _Listening(heard):
                return function(*args)

        return call

    functions = model.forward, model.logits
    model.forward, model.logits = map(listening, functions)  # type: ignore[method-assign]
    try:
        result = shard.step(decode)
    finally:
        model.forward, model.logits = functions  # type: ignore[method-assign]
    assert not result.HasField("error")
    return heard
