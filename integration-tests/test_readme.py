"""Every curl and Python example of the README works as printed, but for the port."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (kind, code) for kind, code in BLOCKS if kind == "python" or code.lstrip().startswith("curl")
]


def test_there_are_examples() -> None:
    assert {kind for kind, _ in EXAMPLES} == {"bash", "python"}


@pytest.mark.parametrize(("kind", "code"), EXAMPLES)
def test_example(server: Any, kind: str, code: str) -> None:
    assert "127.0.0.1:8080" in code
    code = code.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
    if kind == "bash":
        # --fail makes an HTTP error an exit code.
        argv = ["bash", "-euc", code.replace("curl ", "curl --silent --show-error --fail ", 1)]
    else:
        argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), done.stderr
