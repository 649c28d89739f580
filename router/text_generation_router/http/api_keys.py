"""The keys that open the server."""

import hmac
from collections.abc import Sequence
from pathlib import Path


class ApiKeyError(ValueError):
    """Keys that cannot be used; the text names the option."""


class ApiKeys:
    """Immutable; without any key everything is open. Keys are no part of its repr."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    @property
    def are_required(self) -> bool:
        """Whether requests need one."""
        return bool(self._keys)

    def open_with(self, given: str) -> bool:
        """Whether this is one of the keys; how long it takes does not tell which, or how nearly."""
        encoded = given.encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(encoded, key) for key in self._keys]
        return any(matches)


def read_api_keys(listed: str | None, path: str | None) -> ApiKeys:
    """From a list with commas and from a file; `ApiKeyError` where a key was meant and is missing:
    it would leave the server open.
    """
    keys: list[str] = []
    if listed is not None:
        keys += [key.strip() for key in listed.split(",")]
        if "" in keys:
            raise ApiKeyError("--api-key: an empty key")
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiKeyError(f"--api-key-file: {error}") from error
        found = [line.strip() for line in lines]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:
            raise ApiKeyError(f"--api-key-file: {path} has no keys")
        keys += found
    return ApiKeys(keys)
