"""Generate `text_generation_proto` from `proto/shard.proto`; --check says if it is stale."""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parent.parent / "proto"
PACKAGE = PROTO / "text_generation_proto"


def generate(folder: Path) -> dict[str, str]:
    """The generated files by name, made in `folder`."""
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            str(PROTO / "shard.proto"),
        ]
    )
    if code != 0:
        sys.exit(f"protoc failed on {PROTO / 'shard.proto'}")
    return {path.name: _inside_package(path.read_text()) for path in sorted(folder.iterdir())}


def _inside_package(source: str) -> str:
    """protoc writes `import shard_pb2`, which only works when the folder itself is on the path."""
    return re.sub(
        r"^import shard_pb2 as",
        "from text_generation_proto import shard_pb2 as",
        source,
        flags=re.MULTILINE,
    )


def stale_files() -> list[str]:
    """Names of generated files in the package that differ from what protoc makes now."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    return [
        name
        for name, source in fresh.items()
        if not (PACKAGE / name).exists() or (PACKAGE / name).read_text() != source
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if stale := stale_files():
            sys.exit(f"stale, run `make generate`: {', '.join(stale)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, source in generate(Path(folder)).items():
            (PACKAGE / name).write_text(source)


if __name__ == "__main__":
    main()
