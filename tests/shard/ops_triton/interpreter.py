"""Triton's interpreter, as these tests need it."""

from typing import Any


def take_scalars_as_indices() -> None:
    """The bounds of a loop are arrays of one element in Triton 3.6's interpreter, which NumPy 2.4
    no longer turns into an int.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_with_index
