"""No import crosses a wall: each package is imported whole in a fresh interpreter.

The router never loads torch, the shard never loads an HTTP server, the launcher neither; of what
serves, transformers is loaded by the generic path, for a model that needs it, and by the router
where a model's tokenizer is Python code of it: then without torch
(tests/router/prompt/test_python_tokenizer.py).
"""

import json
import os
import subprocess
import sys

import pytest

MODELLING = {"torch", "transformers", "triton"}
HTTP = {"aiohttp", "uvloop"}
ENGINES = MODELLING | HTTP | {"grpc", "numpy", "tokenizers", "safetensors", "jinja2"}
WALLS = {
    "text_generation_process": ENGINES | {"huggingface_hub", "rich"},
    "text_generation_launcher": ENGINES | {"huggingface_hub", "rich"},
    "text_generation_proto": MODELLING | HTTP,
    "text_generation_router": MODELLING,
    "text_generation_shard": HTTP | {"transformers", "msgspec", "jinja2"},
    "text_generation_benchmark": MODELLING,
}
# Packages within them that are imported for some models only, with walls of their own.
APART = {"text_generation_shard.generic": HTTP | {"msgspec"}}
# What a process loads before it knows what it has to do: start-up time counts.
START = {
    "text_generation_launcher.cli": ENGINES | {"huggingface_hub", "rich"},
    "text_generation_launcher.tether": ENGINES | {"click", "asyncio"},
    "text_generation_router.cli": MODELLING | {"huggingface_hub"},
    "text_generation_shard.cli": HTTP | {"transformers", "huggingface_hub"},
    "text_generation_benchmark.cli": ENGINES | {"huggingface_hub"},
}
_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package, apart = importlib.import_module(sys.argv[1]), tuple(sys.argv[2:])
names = [package.__name__]
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
    if not module.name.endswith("__main__") and not module.name.startswith(apart):
        importlib.import_module(module.name)
        names.append(module.name)
print(json.dumps({"imported": names, "loaded": sorted(sys.modules)}))
"""


def import_all(name):
    """Names of the package's modules but those apart, and the top-level names of all that they
    loaded.
    """
    apart = [package for package in APART if package != name]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _IMPORT_ALL, name, *apart],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return told["imported"], {loaded.partition(".")[0] for loaded in told["loaded"]}


@pytest.mark.parametrize("package", WALLS | APART)
def test_a_package_stays_behind_its_wall(package):
    imported, loaded = import_all(package)
    assert len(imported) > 1, "there is something to import"
    assert loaded & (WALLS | APART)[package] == set()


@pytest.mark.parametrize("module", START)
def test_a_process_starts_with_no_more_than_it_needs(module):
    _, loaded = import_all(module)
    assert loaded & START[module] == set()


def test_only_click_and_our_own_packages_are_loaded_by_the_launcher():
    """Its imports must stay cheap: everything waits for it."""
    _, loaded = import_all("text_generation_launcher.cli")
    foreign = {name for name in loaded if name not in sys.stdlib_module_names}
    ours = {name for name in foreign if name.startswith("text_generation_")}
    assert {name for name in foreign - ours if not name.startswith("_")} <= {
        "click",
        "typing_extensions",
    }
