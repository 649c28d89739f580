"""Options of TGI whose mechanism this server does not have (yet).

They keep their names, so that a command line written for TGI is understood; a value that would have
to change something is refused, never ignored.
"""

from collections.abc import Mapping
from typing import Any

from text_generation_process.options import OptionError, flag_name

REASONS: Mapping[str, str] = {
    "quantize": "quantized weights of this kind are not available yet (there are int8 and int4)",
    "speculate": "speculative decoding is not available yet",
    "lora_adapters": "LoRA adapters are not available yet",
    "ngrok": "tunnels are not part of this server; put one of your own before --port",
    "otlp_endpoint": "OpenTelemetry export is not available yet; metrics are at /metrics",
}

# Values of these options that are honoured.
AVAILABLE: Mapping[str, tuple[str, ...]] = {"quantize": ("int8", "int4")}


def refuse_unavailable(config: object) -> None:
    """Raise OptionError for the first option of `config` that asks for what is not there."""
    for name, reason in REASONS.items():
        value = getattr(config, name)
        if _asks_for_something(value) and value not in AVAILABLE.get(name, ()):
            raise OptionError(f"{_as_given(name, value)}: {reason}")


def _asks_for_something(value: Any) -> bool:
    """`0`, `false`, the empty text and a list of zeros ask for nothing."""
    return any(value) if isinstance(value, tuple) else bool(value)


def _as_given(name: str, value: Any) -> str:
    if value is True:
        return flag_name(name)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{flag_name(name)} {shown}"
