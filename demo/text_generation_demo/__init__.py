"""The small chat model that the server serves by default, and the code that makes it.

Importing this package loads nothing heavy; `MODEL_DIR` is all that the launcher needs.
"""

from pathlib import Path
from typing import Final

MODEL_DIR: Final[Path] = Path(__file__).resolve().parent / "model"
