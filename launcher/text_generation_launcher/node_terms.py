"""What launchers of one group must have been started with alike."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_generation_process.options import flag_name
from text_generation_router.config import VERSION
from text_generation_shard.config import ShardConfig

from text_generation_launcher.commands import Rendezvous, shard_config
from text_generation_launcher.model import Model
from text_generation_launcher.node_link import Message
from text_generation_launcher.preparation import Setting

# Of a shard's options, those that are a node's own affair.
_LOCAL = {
    "model_path",
    "uds_path",
    "tcp_token",
    "trust_remote_code",
    "num_threads",
    "cuda_memory_fraction",
    "json_output",
    "logger_level",
}


@dataclass(frozen=True)
class NodeTerms:
    """A node's place, and its options that must be those of node 0; values as JSON has them."""

    node_rank: int
    nnodes: int
    options: Mapping[str, Any]

    def message(self) -> Message:
        """What a node says of itself when it comes."""
        return {"version": VERSION, "node_rank": self.node_rank, "options": self.options}


def node_terms(setting: Setting) -> NodeTerms:
    """Those of this launcher."""
    config, resolved = setting.config, setting.resolved
    nowhere = Rendezvous(shard_uds_path="", master_addr="", master_port=config.node_port)
    shard = shard_config(config, resolved, Model(Path(), ""), nowhere)
    options = {"nnodes": config.nnodes, "num_shard": resolved.num_shard}
    options |= {
        item.name: getattr(shard, item.name)
        for item in dataclasses.fields(ShardConfig)
        if item.name not in _LOCAL
    }
    return NodeTerms(config.node_rank, config.nnodes, json.loads(json.dumps(options)))


def disagreement(ours: NodeTerms, theirs: Message) -> str | None:
    """Why node 0 cannot have this node; None if it can."""
    node, options = theirs.get("node_rank"), theirs.get("options")
    if theirs.get("version") != VERSION:
        return f"it is version {theirs.get('version')}, node 0 is {VERSION}"
    if not isinstance(node, int) or not isinstance(options, dict):
        return "it does not say who it is"
    for name, value in ours.options.items():
        if options.get(name) != value:
            return (
                f"{flag_name(name)} is {_shown(options.get(name))} on node {node}, "
                f"{_shown(value)} on node 0"
            )
    if not 0 < node < ours.nnodes:
        return f"--node-rank {node} is not one of 1..{ours.nnodes - 1}"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "not given" if value is None else str(value)
