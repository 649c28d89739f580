"""Fetches a model's files from the hub into its cache, or finds them there.

    HubError                 the model cannot be had; the text names model and revision
      └─ HubUnreachableError  the hub did not answer; what the cache holds may serve

huggingface_hub is imported when the hub is really needed: that takes a good part of a second.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from text_generation_shard.errors import ShardError
from text_generation_shard.weights.transfer_progress import TransferProgress
from text_generation_shard.weights.weight_files import (
    WeightFiles,
    choose_weight_files,
    read_weight_map,
    weight_file_sets,
)

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# Configuration, tokenizer and chat template; everything else in a repository is weights, code or
# prose.
_SMALL_FILES = (".json", ".jinja", ".model", ".tiktoken", "merges.txt", "vocab.txt")
_INDEX_SUFFIX = ".index.json"
_CODE_SUFFIX = ".py"
_MAX_PARALLEL_FILES = 4
_MAX_TRIES = 5
_FIRST_BACKOFF_SECONDS = 1.0
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_DEFAULT_REVISION = "main"


class HubError(ShardError):
    """The model cannot be had from the hub."""


class HubUnreachableError(HubError):
    """The hub did not answer, or answered that it cannot serve now."""


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model on the hub and where its files go."""

    model_id: str
    revision: str | None = None
    token: str | None = None
    # Root of the hub's cache; None for its default place.
    cache_dir: Path | None = None
    # A plain directory that takes the files instead of the cache.
    local_dir: Path | None = None
    # Whether the model's own code is fetched too.
    with_code: bool = False

    def __str__(self) -> str:
        return f"model {self.model_id} (revision {self.revision or _DEFAULT_REVISION})"


@dataclass(frozen=True)
class _Listing:
    """A repository at one commit: file names with their sizes in bytes."""

    commit: str
    sizes: Mapping[str, int]


def hub_token(environment: Mapping[str, str]) -> str | None:
    """The token from the environment; None leaves it to the hub library's stored login."""
    for name in ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        token = environment.get(name, "").strip()
        if token:
            return token
    return None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_directory(model: HubModel) -> Path | None:
    """The directory of the model's snapshot in the cache, complete or not; None without one."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if model.local_dir is not None:
        return model.local_dir if model.local_dir.is_dir() else None
    try:
        config = try_to_load_from_cache(
            model.model_id, "config.json", cache_dir=model.cache_dir, revision=model.revision
        )
    except HFValidationError as error:
        raise HubError(f"{model.model_id} is no name of a model: {_first_line(error)}") from error
    return Path(config).parent if isinstance(config, str) else None


def fetch(model: HubModel, *, is_converted: Callable[[Path], bool]) -> Path:
    """Download what is missing and return the model's directory.

    Configuration, tokenizer, chat template, code if the model is wanted with it, and one set of
    weights: safetensors, or what can be converted where there are none. is_converted: whether a
    directory holds a finished conversion already, so that its source need not be downloaded.
    HubError or HubUnreachableError if the hub does not give them.
    """
    listing = _answered(model, lambda: _list(model))
    if "config.json" not in listing.sizes:
        kind = " but an adapter" if "adapter_config.json" in listing.sizes else ""
        raise HubError(f"{model} has no config.json: it is no model{kind}")
    download = _Download(model, listing)
    # By its name, not its commit: that is how the cache learns which commit the name stands for.
    directory = download.one("config.json", revision=model.revision).parent
    if model.local_dir is None and directory.name != listing.commit:
        raise HubUnreachableError(f"{model} changed while it was being downloaded: try again")
    sets = weight_file_sets(
        listing.sizes, lambda name: read_weight_map(download.one(name, revision=listing.commit))
    )
    weights = choose_weight_files(sets, listing.sizes)
    if weights is None:
        raise HubError(f"{model} has no weights (*.safetensors, *.bin or *.pt)")
    needed = [name for name in listing.sizes if _is_small(name)]
    if model.with_code:
        needed += [
            name for name in listing.sizes if "/" not in name and name.endswith(_CODE_SUFFIX)
        ]
    if not is_converted(directory):
        needed += _weight_names(model, listing, weights)
    download.all(needed)
    return directory


def _weight_names(model: HubModel, listing: _Listing, weights: WeightFiles) -> list[str]:
    missing = [name for name in weights.names if name not in listing.sizes]
    if missing:
        raise HubError(f"{model}: {weights.index} names {missing[0]}, which is not there")
    return [*weights.names, *([weights.index] if weights.index else [])]


def _is_small(name: str) -> bool:
    return "/" not in name and name.endswith(_SMALL_FILES) and not name.endswith(_INDEX_SUFFIX)


def _list(model: HubModel) -> _Listing:
    from huggingface_hub import HfApi

    info = HfApi(token=model.token).model_info(
        model.model_id, revision=model.revision, files_metadata=True
    )
    assert info.sha is not None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return _Listing(commit=info.sha, sizes=sizes)


class _AbandonedError(Exception):
    """Another file has failed; this one need not go on."""


class _Download:
    """Downloads files of one commit, each with retries; owns the flag that abandons all."""

    def __init__(self, model: HubModel, listing: _Listing) -> None:
        self._model = model
        self._listing = listing
        self._abandoned = Event()

    def one(self, name: str, *, revision: str | None) -> Path:
        """Download one small file."""
        return self._with_retries(name, revision, tqdm_class=None)

    def all(self, names: list[str]) -> None:
        """Download files side by side; the first that fails ends the others."""
        sizes = {name: self._listing.sizes[name] for name in names}
        progress = TransferProgress(f"Downloading {self._model.model_id}", sizes)
        largest_first = sorted(sizes, key=lambda name: -sizes[name])
        with ThreadPoolExecutor(_MAX_PARALLEL_FILES) as threads:
            running = [threads.submit(self._part, name, progress) for name in largest_first]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                self._abandoned.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _part(self, name: str, progress: TransferProgress) -> None:
        bar = _bar_class(name, progress, self._abandoned)
        self._with_retries(name, self._listing.commit, tqdm_class=bar)
        progress.finish(name)

    def _with_retries(self, name: str, revision: str | None, *, tqdm_class: Any) -> Path:
        from huggingface_hub import hf_hub_download

        def attempt() -> Path:
            return Path(
                hf_hub_download(
                    self._model.model_id,
                    name,
                    revision=revision,
                    cache_dir=self._model.cache_dir,
                    local_dir=self._model.local_dir,
                    token=self._model.token,
                    tqdm_class=tqdm_class,
                )
            )

        for number in range(1, _MAX_TRIES):
            try:
                return _answered(self._model, attempt)
            except HubUnreachableError as error:
                seconds = _FIRST_BACKOFF_SECONDS * 2 ** (number - 1)
                logger.warning(
                    "%s: try %d of %s failed, next in %g s", error, number, name, seconds
                )
                if self._abandoned.wait(seconds):
                    raise
        return _answered(self._model, attempt)


def _bar_class(name: str, progress: TransferProgress, abandoned: Event) -> type:
    """What huggingface_hub takes for a progress bar of one file; it wants a class."""

    class Bar:
        n = 0
        total = 0

        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            progress.restart(name, initial)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, num_bytes: float | None = 1) -> None:
            if abandoned.is_set():
                raise _AbandonedError(name)
            progress.advance(name, int(num_bytes or 0))

        def ignore(self, *_: object, **__: object) -> None:
            """How fast, and how much of it went over the wire: drawn elsewhere, or not at all."""

        update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = ignore

    return Bar


def _answered(model: HubModel, ask: Callable[[], ResultT]) -> ResultT:
    """What the hub answers, with its refusals as one line each."""
    from huggingface_hub import errors

    try:
        return ask()
    except errors.GatedRepoError as error:
        raise HubError(
            f"{model} is gated: accept its conditions on the hub and set HF_TOKEN to a token of an "
            "account that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{model}: there is no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{model} does not exist on the hub, or the token in HF_TOKEN may not read it"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"{model.model_id} is no name of a model: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        kind = HubUnreachableError if status in _TRANSIENT_STATUS else HubError
        raise kind(f"{model}: the hub answered {status}: {_first_line(error)}") from error
    # HTTPError is that of the HTTP library, whichever one huggingface_hub is built on.
    except (
        errors.HTTPError,  # type: ignore[attr-defined]
        errors.LocalEntryNotFoundError,
        ConnectionError,
        RuntimeError,  # how its native transfer library fails
    ) as error:
        reason = _first_line(error.__cause__ or error)
        raise HubUnreachableError(f"{model}: the hub cannot be reached: {reason}") from error
    except OSError as error:
        raise HubError(f"{model} cannot be downloaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
