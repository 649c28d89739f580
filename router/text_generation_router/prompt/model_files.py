"""What the router reads from a model's directory besides the tokenizer: special tokens, end tokens
and chat templates.

Every file is optional here (the shard needs its own); one that exists and cannot be read is an
error that names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

# The names under which transformers stores more than one template.
DEFAULT_TEMPLATE = "default"
TOOL_USE_TEMPLATE = "tool_use"


class ModelFileError(ValueError):
    """A file of the model is missing or cannot be used; the text names it."""


class OptionFileError(ModelFileError):
    """An option names a file that is not there."""


@dataclass(frozen=True, kw_only=True)
class PromptFiles:
    """What the files say, ready for use."""

    # Such as {"bos_token": "<s>", "eos_token": "</s>"}; only those that the model has.
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    # Tokens that tokenizer_config.json adds to the tokenizer or marks as special, by ascending id.
    added_tokens: tuple[AddedToken, ...] = ()
    # Source text by name; "default" is the one for requests without tools.
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    # Ids that config.json and generation_config.json name as the end of a sequence.
    eos_token_ids: frozenset[int] = frozenset()


def read_prompt_files(directory: Path, tokenizer_config_path: Path | None = None) -> PromptFiles:
    """Read a model's directory; `tokenizer_config_path` takes the place of its
    tokenizer_config.json and its templates come before all others.
    """
    if tokenizer_config_path is not None and not tokenizer_config_path.is_file():
        raise OptionFileError(f"--tokenizer-config-path: there is no file {tokenizer_config_path}")
    settings = _read_object(tokenizer_config_path or directory / "tokenizer_config.json")
    templates = _templates(settings.get("chat_template"))
    if tokenizer_config_path is None or not templates:
        templates = _directory_templates(directory) or templates
    if "added_tokens_decoder" not in settings:  # written before transformers 4.34
        settings |= _read_object(directory / "special_tokens_map.json")
    special_tokens = _special_tokens(settings)
    return PromptFiles(
        special_tokens=special_tokens,
        added_tokens=_added_tokens(settings, special_tokens),
        chat_templates=templates,
        eos_token_ids=_eos_token_ids(directory),
    )


def _directory_templates(directory: Path) -> dict[str, str]:
    """Templates in files of their own, which come before those in tokenizer_config.json."""
    file = directory / "chat_template.jinja"
    found = {DEFAULT_TEMPLATE: _read_text(file)} if file.is_file() else {}
    for extra in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        found[extra.stem] = _read_text(extra)
    return found or _templates(_read_object(directory / "chat_template.json").get("chat_template"))


def _templates(value: Any) -> dict[str, str]:
    """Templates as a string or as `[{"name": ..., "template": ...}]`."""
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    if not isinstance(value, list):
        return {}
    return {
        entry["name"]: entry["template"]
        for entry in value
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Tokens with a name: the usual ones, and those that a model adds for itself."""
    tokens: dict[str, str] = {}
    extra = settings.get("extra_special_tokens")
    named = {name: value for name, value in settings.items() if name.endswith("_token")}
    for name, value in (named | (extra if isinstance(extra, dict) else {})).items():
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _added_tokens(
    settings: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> tuple[AddedToken, ...]:
    """As transformers has them: what `added_tokens_decoder` lists, special by its own flag or
    because it has a name.
    """
    listed = settings.get("added_tokens_decoder", {})
    try:
        entries = sorted((int(token_id), entry) for token_id, entry in listed.items())
        names = frozenset(special_tokens.values())
        return tuple(
            AddedToken(
                entry["content"],
                single_word=bool(entry.get("single_word", False)),
                lstrip=bool(entry.get("lstrip", False)),
                rstrip=bool(entry.get("rstrip", False)),
                normalized=bool(entry.get("normalized", not entry.get("special", False))),
                special=bool(entry.get("special", False)) or entry["content"] in names,
            )
            for _, entry in entries
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"added_tokens_decoder of tokenizer_config.json: not tokens by id: {error!r}"
        ) from error


def _eos_token_ids(directory: Path) -> frozenset[int]:
    """The generation settings decide; the model's configuration is asked where they are silent."""
    for name in ("generation_config.json", "config.json"):
        value = _read_object(directory / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found = frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool))
        if found:
            return found
    return frozenset()


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: {error}") from error
