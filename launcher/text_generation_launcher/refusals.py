"""Options of TGI whose mechanism this server does not have (yet).

They keep their names, so that a command line written for TGI is understood; a value that would have
to change something is refused. What only tuned TGI is accepted, with a warning: command lines and
Helm charts in the field have it.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from text_generation_process.options import OptionError, flag_name

logger = logging.getLogger(__name__)

REASONS: Mapping[str, str] = {
    "quantize": "quantized weights of this kind are not available yet (there are int8 and int4)",
    "speculate": "speculative decoding is not available yet",
    "lora_adapters": "LoRA adapters are not available yet",
    "ngrok": "tunnels are not part of this server; put one of your own before --port",
    "otlp_endpoint": "OpenTelemetry export is not available yet; metrics are at /metrics",
}

# Values of these options that are honoured.
AVAILABLE: Mapping[str, tuple[str, ...]] = {"quantize": ("int8", "int4")}


# Options whose mechanism is not here, and what there is instead.
WITHOUT_EFFECT: Mapping[str, str] = {
    "disable_custom_kernels": "every operator has one implementation per device",
    "waiting_served_ratio": "every step mixes decodes with prompt chunks; see --target-step-ms",
    "max_waiting_tokens": "waiting prompts join the next step; see --target-step-ms",
    "prometheus_port": "metrics are served at /metrics of --port",
}


def refuse_unavailable(config: object) -> None:
    """Raise OptionError for the first option of `config` that asks for what is not there."""
    for name, reason in REASONS.items():
        value = getattr(config, name)
        if _asks_for_something(value) and value not in AVAILABLE.get(name, ()):
            raise OptionError(f"{_as_given(name, value)}: {reason}")


def warn_without_effect(config: Any) -> None:
    """Name every option of `config` that was given another value than its own and does nothing."""
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    for name, reason in WITHOUT_EFFECT.items():
        value = getattr(config, name)
        if value != defaults[name]:
            logger.warning("%s is without effect: %s", _as_given(name, value), reason)


def _asks_for_something(value: Any) -> bool:
    """`0`, `false`, the empty text and a list of zeros ask for nothing."""
    return any(value) if isinstance(value, tuple) else bool(value)


def _as_given(name: str, value: Any) -> str:
    if value is True:
        return flag_name(name)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{flag_name(name)} {shown}"
