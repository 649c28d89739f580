"""Typed access to a foreign config.json; every refusal names the key."""

from collections.abc import Mapping
from typing import Any

from text_generation_shard.errors import CheckpointError
from text_generation_shard.ops.activation_kind import ACTIVATIONS, Activation


class Fields:
    """The values of a mapping; a null counts as missing."""

    def __init__(self, values: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> None:
        """renamed: keys by which a family calls what others call otherwise."""
        self._values = values
        self._renamed = {} if renamed is None else renamed

    def has(self, key: str) -> bool:
        """Whether the key has a value."""
        return self._value(key, None) is not None

    def names(self, key: str) -> bool:
        """Whether the key is there, be its value null."""
        return self._key(key) in self._values

    def is_null(self, key: str) -> bool:
        """Whether the key is there without a value."""
        return self.names(key) and not self.has(key)

    def with_defaults(self, **defaults: Any) -> "Fields":
        """The same, with values for keys that are not there at all."""
        return Fields({**defaults, **self._values}, self._renamed)

    def equals(self, key: str, value: Any) -> bool:
        """Whether the key has this value."""
        return bool(self._value(key, None) == value)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        return self._integer(key, default, least=1, kind="a positive integer")

    def integer_unless_null(self, key: str, default: int) -> int | None:
        """A positive integer, `default` where the key is missing; a null is None."""
        return None if self.is_null(key) else self.integer(key, default)

    def count(self, key: str, default: int | None = None) -> int:
        """An integer that is not negative."""
        return self._integer(key, default, least=0, kind="an integer that is not negative")

    def number(self, key: str, default: float | None = None) -> float:
        """A number, also written as an integer."""
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self._key(key)} must be a number, got {value!r}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """A number, or None where there is none."""
        return self.number(key) if self.has(key) else None

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._required(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self._key(key)} must be true or false, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._required(key, default)
        if not isinstance(value, str):
            raise CheckpointError(f"{self._key(key)} must be a string, got {value!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string, or None where there is none."""
        return self.text(key) if self.has(key) else None

    def section(self, key: str) -> "Fields":
        """An object within; empty where there is none."""
        value = self._value(key, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._key(key)} must be an object, got {value!r}")
        return Fields(value)

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """A list of as many numbers."""
        value = self._required(key, None)
        if not isinstance(value, list) or len(value) != length:
            raise CheckpointError(f"{self._key(key)} must be a list of {length} numbers")
        return tuple(float(number) for number in value)

    def texts(self, key: str, length: int) -> tuple[str, ...]:
        """A list of as many strings."""
        value = self._required(key, None)
        if not isinstance(value, list) or len(value) != length:
            raise CheckpointError(f"{self._key(key)} must be a list of {length} strings")
        return tuple(str(text) for text in value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers; empty where there is none."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
            raise CheckpointError(f"{self._key(key)} must be a list of integers, got {value!r}")
        return tuple(value)

    def activation(self, key: str, default: str | None = None) -> Activation:
        """An activation that we have, by any of its names."""
        name = self.text(key, default)
        if name not in ACTIVATIONS:
            raise CheckpointError(
                f"{self._key(key)} {name!r} is not supported "
                f"(supported: {', '.join(sorted(ACTIVATIONS))})"
            )
        return ACTIVATIONS[name]

    def refuse(self, key: str, *, unless: Any) -> None:
        """CheckpointError if the key has another value than the one that our models compute."""
        value = self._value(key, unless)
        if value != unless:
            raise CheckpointError(f"{self._key(key)} {value!r} is not supported for this model")

    def _integer(self, key: str, default: int | None, *, least: int, kind: str) -> int:
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CheckpointError(f"{self._key(key)} must be {kind}, got {value!r}")
        return value

    def _key(self, key: str) -> str:
        own = self._renamed.get(key, key)
        return own if own in self._values or key not in self._values else key

    def _value(self, key: str, default: Any) -> Any:
        value = self._values.get(self._key(key))
        return default if value is None else value

    def _required(self, key: str, default: Any) -> Any:
        value = self._value(key, default)
        if value is None:
            raise CheckpointError(f"{self._key(key)} is missing")
        return value
