"""Generate `docs/configuration.md` from the launcher's options; --check says if it is stale."""

import argparse
import sys
from pathlib import Path

from text_generation_launcher.config import LauncherConfig
from text_generation_process.options import OptionText, describe

TARGET = Path(__file__).parent.parent / "docs" / "configuration.md"

HEAD = """# Configuration

Every option of `text-generation-launcher`, made from the code by `make generate`. Each is a flag
and an environment variable; the flag wins. Names and defaults are those of Text Generation
Inference. An option that cannot be honoured is refused at start with exit code 2.

Beside these, `LOG_LEVEL` sets the least severe level that is logged (trace, debug, info, warn,
error), and the hub's own variables (`HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_HOME`, …) keep their meaning.

| flag | variable | values | default | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(option) for option in describe(LauncherConfig))


def _row(option: OptionText) -> str:
    variable = f"`{option.environment}`" if option.environment else ""
    default = f"`{option.default}`" if option.default else ""
    cells = (f"`{option.flag}`", variable, option.values, default, option.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        TARGET.write_text(page())
    elif not TARGET.exists() or TARGET.read_text() != page():
        sys.exit(f"stale, run `make generate`: {TARGET.name}")


if __name__ == "__main__":
    main()
