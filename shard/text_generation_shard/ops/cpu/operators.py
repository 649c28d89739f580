"""The operators of the library as Python sees them, and what they take; all is made in C++."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class PackedMatrix(Protocol):
    """A weight matrix [outputs, inputs] in the layout of `csrc/layout.h`; immutable."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""

    def multiply(self, x: Tensor, bias: Tensor | None, addend: Tensor | None = None) -> Tensor:
        """x W^T + bias + addend. x: float32 [rows, inputs]; bias: [outputs]; addend, result:
        float32 [rows, outputs].
        """

    def rows(self, ids: Tensor) -> Tensor:
        """Float32 [len(ids), inputs]; ids: int64, each less than `outputs`."""


class PackedStack(Protocol):
    """Matrices of one shape and format, in C++ alone."""


# What belongs together goes to C++ as one tuple: `ops.norm.NormWeights`,
NormFields = tuple[Tensor, float, Tensor | None, bool]
# a matrix and its bias,
ProjectionFields = tuple[PackedMatrix, Tensor | None]
# name, is_gated, and limit and alpha of `ops.activation.ClampedSwiGLU`,
ActivationFields = tuple[str, bool, float, float]
# `ops.rotary.Rotation`,
RotationFields = tuple[Tensor, Tensor, bool]
# `ops.write_heads.HeadOptions`,
HeadFields = tuple[float, NormFields | None, NormFields | None, bool]
# the fields of `ops.route.RoutingRule`, choice_bias last,
RuleFields = tuple[str, int, bool, float, int, int, int, Tensor | None]
# gates and ups, downs, and the biases of both,
ExpertFields = tuple["PackedStack", "PackedStack", Tensor | None, Tensor | None]
# those of `ops.latent_attention.LatentExpansion`: to latent, to key, from latent,
ExpansionFields = tuple["PackedStack", "PackedStack", "PackedStack"]
# keys, values, float32, bfloat16 or int8, and the scales of both, bfloat16, where they are int8,
CacheFields = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
# block tables, first rows, contexts, sliding window, attention chunk (see `attend`),
PlanFields = tuple[Tensor, Tensor, Tensor, int, int]
# `sampling.rows.BiasLists` and the rows' slots, int64,
BiasFields = tuple[Tensor, Tensor, Tensor, Tensor]
# repetition, frequency and presence of each row; tokens, int32 [sequences, width], and of each row
# its sequence, its length and where its output starts, int64 (see `SamplingRows`),
PenaltyFields = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
# `sampling.rows.MaskPlaces`,
MaskFields = tuple[Tensor, Tensor]
# and `ops.add_attention.ScoreOptions`.
ScoreFields = tuple[float, float | None, Tensor | None, Tensor | None, Tensor | None]


class Operators(Protocol):
    """The operators of one instruction set; all tensors float32 unless said otherwise."""

    @property
    def rounds_to_bfloat16(self) -> bool:
        """Whether products with bfloat16 weights round their activations to bfloat16, and attention
        over a bfloat16 cache its queries and weights (not with ALiBi or a bias by distance, nor of
        single rows where every query head has a KV head of its own).
        """

    def pack(self, source: Tensor, weight_format: str) -> PackedMatrix:
        """source: [outputs, inputs], a row's numbers one after another: bfloat16 for the format
        "bfloat16", float32 for "float32", one of both for integers.
        """

    def pack_parts(
        self, parts: Sequence[tuple[int, Tensor]], outputs: int, inputs: int, weight_format: str
    ) -> PackedMatrix:
        """From the first output of each part and its rows, as above, one type for all; outputs that
        no part has are zeros.
        """

    def norm(self, x: Tensor, norm: NormFields, addend: Tensor | None) -> Tensor:
        """As `ops.norm.normed`; x, addend: [rows, size], x with any stride between rows."""

    def add_and_norm(
        self, stream: Tensor, update: Tensor, scale: float, norm: NormFields
    ) -> Tensor:
        """As `ops.norm.add_and_norm`; changes the stream."""

    def activate(self, x: Tensor, activation: ActivationFields) -> Tensor:
        """As `ops.activation` has it, or "softplus"; [rows, size], gated from twice the size."""

    def add(self, x: Tensor, table: Tensor, ids: Tensor | None, scale: float) -> None:
        """x += scale * table[ids]; ids: int64 [rows], or None: each row of x its own."""

    def scale(self, x: Tensor, bias: Tensor | None, scale: float, cap: float) -> None:
        """As `ops.scale.scaled`, in place; cap: 0: none."""

    def rotation(
        self, positions: Tensor, frequencies: Tensor, factor: float, is_interleaved: bool
    ) -> tuple[Tensor, Tensor]:
        """cos and signed_sin, as `ops.rotary.rotation`; positions: int64."""

    def temperature(self, positions: Tensor, strength: float, interval: int) -> Tensor:
        """As `ops.temperature`, float32."""

    def route(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, rule: RuleFields
    ) -> tuple[Tensor, Tensor]:
        """Ids (int64) and weights, [rows, chosen] each, as `ops.route`."""

    def mix_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        experts: ExpertFields,
        activation: ActivationFields,
        weighs_inputs: bool,
        addend: Tensor | None,
    ) -> Tensor:
        """As `ops.mix_experts`; the addend stays as it is."""

    def gate(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        """As `ops.route.weigh_by_gate`, in place."""

    def choose_best(self, scores: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Ids, int64 [rows], and log-softmax of the greatest of each row, the lowest id of equal
        ones; and the rows whose scores are not numbers, where these mean nothing.
        """

    def change_scores(
        self,
        scores: Tensor,
        biases: BiasFields | None,
        penalties: PenaltyFields | None,
        masks: MaskFields | None,
    ) -> None:
        """Biases, penalties and masks of the sampler, in this order, in place; see `ChangeCall` in
        `csrc/calls_sampling.h`.
        """

    def sample(
        self,
        scores: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        draws: Tensor,
        seeds: Tensor,
        positions: Tensor,
        first_id: int,
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """The same of chosen or drawn tokens, after temperature, top-k, top-p and min-p, and their
        scores with noise before the rows that failed; see `SampleCall` in `csrc/calls_sampling.h`.
        top_k, seeds, positions: int64 [rows]; draws: bool [rows].
        """

    def candidates(self, scores: Tensor, first_id: int, count: int) -> Tensor:
        """The best of each row, [rows, 2 * count + 2]; see `CandidatesCall` in
        `csrc/calls_sampling.h`.
        """

    def choose(
        self,
        packets: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        draws: Tensor,
        seeds: Tensor,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """What `sample` returns, from the candidates of all parts, [parts, rows, 2 * count + 2];
        rows for which these do not suffice are among those that failed.
        """

    def mlp(
        self,
        x: Tensor,
        norm: NormFields | None,
        up: ProjectionFields,
        activation: ActivationFields,
        down: ProjectionFields,
        addend: Tensor | None,
    ) -> Tensor:
        """As `ops.add_mlp`; the addend stays as it is."""

    def project_and_store(
        self,
        x: Tensor,
        norm: NormFields | None,
        qkv: ProjectionFields,
        heads: HeadFields,
        rotation: RotationFields | None,
        temperature: Tensor | None,
        cache: CacheFields,
        slots: Tensor,
    ) -> Tensor:
        """norm, product and store_heads; returns the queries, [rows, num_heads, head_dim]."""

    def attention(
        self,
        x: Tensor,
        norm: NormFields | None,
        qkv: ProjectionFields,
        heads: HeadFields,
        rotation: RotationFields | None,
        temperature: Tensor | None,
        cache: CacheFields,
        slots: Tensor,
        plan: PlanFields,
        scores: ScoreFields,
        output: ProjectionFields,
        addend: Tensor | None,
    ) -> Tensor:
        """project_and_store, attend, product and the addend, which stays as it is."""

    def store_heads(
        self,
        qkv: Tensor,
        heads: HeadFields,
        rotation: RotationFields | None,
        temperature: Tensor | None,
        cache: CacheFields,
        slots: Tensor,
    ) -> None:
        """As `ops.write_heads`: queries in place, keys and values at slots; other heads may change.
        qkv: [rows, (num_heads + 2 * num_kv_heads) * head_dim].
        """

    def attend(
        self,
        query: Tensor,
        cache: CacheFields,
        plan: PlanFields,
        scale: float,
        soft_cap: float,
        alibi_slopes: Tensor | None,
        distance_bias: Tensor | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Causal attention over the paged cache; see `AttentionCall` in
        `csrc/calls_attention.h`.
        """

    def latent_attention(
        self,
        query: Tensor,
        key: Tensor,
        norm: NormFields,
        rotation: RotationFields,
        expansion: ExpansionFields,
        cache: tuple[Tensor, Tensor],
        slots: Tensor,
        plan: PlanFields,
        scale: float,
    ) -> Tensor:
        """As `ops.latent_attention`; changes the query and the cache (float32 or bfloat16)."""

    def causal_conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        past: Tensor,
        slots: Tensor,
        first_rows: Tensor,
    ) -> Tensor:
        """As `ops.causal_conv`; changes past. slots, first_rows: int64."""

    def selective_scan(
        self,
        values: Tensor,
        steps: Tensor,
        gates: Tensor,
        writes: Tensor,
        reads: Tensor,
        rates: Tensor,
        skip: Tensor,
        states: Tensor,
        slots: Tensor,
        first_rows: Tensor,
    ) -> Tensor:
        """As `ops.selective_scan`; changes states. slots, first_rows: int64."""
