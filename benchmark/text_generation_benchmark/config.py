"""The options of `text-generation-benchmark`, with TGI's names, short forms and defaults.

Ours are `--url` and what belongs to it, `--json` and `--plot`.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from text_generation_process.options import OptionError, flag_name, option

DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
DEFAULT_SOCKET = "/tmp/text-generation-server-0"  # noqa: S108  TGI's, and the shard's default


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Parsed once at start."""

    # who is asked
    url: str | None = option(
        None,
        environment=False,
        help="Measure a running server through HTTP: http(s)://host[:port]. Without it a shard is "
        "measured at its socket.",
    )
    api_key: str | None = option(None, help="Key that the server at --url wants.")
    master_shard_uds_path: str = option(
        DEFAULT_SOCKET,
        short="-m",
        help="Unix socket of rank 0 of a shard that no router uses; further ranks are found "
        "beside it.",
    )
    tokenizer_name: str | None = option(
        None,
        short="-t",
        help="Model on the hub or local directory whose tokenizer makes the prompt for a shard "
        "(default: random token ids). A server at --url tokenizes by itself.",
    )
    revision: str = option("main", help="Revision of the tokenizer on the hub.")

    # how much
    batch_size: tuple[str, ...] = option(
        (),
        short="-b",
        environment=False,
        help="Sequences that run together, repeatable (default: 1 2 4 8 16 32).",
    )
    sequence_length: int = option(10, short="-s", help="Tokens of each prompt.")
    decode_length: int = option(
        8, short="-d", help="Tokens generated for each prompt; the first comes with the prefill."
    )
    runs: int = option(10, short="-r", help="Measured runs for each batch size.")
    warmups: int = option(1, short="-w", help="Runs before them that are not counted.")

    # how tokens are chosen
    temperature: float | None = option(None, help="Divides the scores (default: off).")
    top_k: int | None = option(None, help="Sample from the k most likely tokens (default: off).")
    top_p: float | None = option(None, help="Nucleus sampling (default: off).")
    typical_p: float | None = option(None, help="Typical sampling (default: off).")
    repetition_penalty: float | None = option(None, help="Penalty of repetition (default: off).")
    frequency_penalty: float | None = option(
        None, help="Penalty of each earlier occurrence (default: off)."
    )
    watermark: bool = option(False, help="Add the watermark.")
    do_sample: bool = option(False, help="Draw tokens; a sampling parameter implies it.")
    top_n_tokens: int | None = option(
        None, help="Most likely tokens reported with each token (default: none)."
    )

    # what is left of it
    json: str | None = option(None, environment=False, help="File to write all times to.")
    plot: str | None = option(
        None, environment=False, help="File to draw latency against throughput to, as SVG."
    )

    def __post_init__(self) -> None:
        self._check_target()
        for name in ("sequence_length", "runs"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("decode_length", self.decode_length >= 2, "at least 2")
        self._require("warmups", self.warmups >= 0, "at least 0")
        for text in self.batch_size:
            if not (text.isascii() and text.isdigit() and int(text)):
                raise OptionError(f"--batch-size must be at least 1, got {text!r}")
        if self.plot is not None and not self.plot.endswith(".svg"):
            raise OptionError(f"--plot writes SVG: its file must end in .svg, got {self.plot!r}")
        self._check_sampling()

    def _check_target(self) -> None:
        if self.url is None:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"--url must be http(s)://host[:port], got {self.url!r}")
        if self.master_shard_uds_path != DEFAULT_SOCKET:
            raise OptionError("give either --url or --master-shard-uds-path")
        if self.tokenizer_name is not None:
            raise OptionError(
                "--tokenizer-name makes the prompt for a shard; a server at --url tokenizes itself"
            )

    def _check_sampling(self) -> None:
        for name in ("temperature", "repetition_penalty"):
            self._require(name, self._is_off(name) or getattr(self, name) > 0, "> 0")
        for name in ("top_p", "typical_p"):
            self._require(name, self._is_off(name) or 0 < getattr(self, name) < 1, "in (0, 1)")
        for name in ("top_k", "top_n_tokens"):
            self._require(name, self._is_off(name) or getattr(self, name) >= 1, "at least 1")

    def _is_off(self, name: str) -> bool:
        return getattr(self, name) is None

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise OptionError(f"{flag_name(name)} must be {what}, got {getattr(self, name)}")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """In the order given."""
        return tuple(map(int, self.batch_size)) or DEFAULT_BATCH_SIZES

    @property
    def num_decodes(self) -> int:
        """Decode steps of a run: the first token comes with the prefill."""
        return self.decode_length - 1

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        given = (self.temperature, self.top_k, self.top_p, self.typical_p)
        return self.do_sample or any(value is not None for value in given)

    def sampling(self) -> dict[str, Any]:
        """The parameters that were given, by the names that TGI's API and this class share."""
        names = (
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "frequency_penalty",
            "top_n_tokens",
        )
        given = {name: getattr(self, name) for name in names if not self._is_off(name)}
        return given | {"do_sample": self.do_sample, "watermark": self.watermark}
