"""A model of transformers as the engine takes models; see `models.model.Model`."""

from typing import Any

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.generic.attention import PAGED, CurrentStep
from text_generation_shard.generic.config import GenericConfig
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.layers.partition import VocabularyPart


class GenericModel:
    """One rank's part. The body computes hidden states, the head logits of some of them.

    transformers has no call for the head alone: soft caps and scales lie in the forward of the
    whole. So the whole is called with a body that returns hidden states computed before.
    """

    def __init__(
        self,
        config: GenericConfig,
        cache_spec: KVCacheSpec,
        *,
        module: Any,
        step: CurrentStep,
        ranks: RankGroup,
    ) -> None:
        """module: a PreTrainedModel whose attention modules have a `paged_layer` on `step`."""
        self.config = config
        self.cache_spec = cache_spec
        self._module = module
        self._step = step
        self._part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, config.vocab_size)
        body = module.base_model
        self._compute = body.forward
        self._output_type: Any = None
        self._recalled: Tensor | None = None
        body.forward = self._recall
        module.config._attn_implementation = PAGED  # noqa: SLF001  transformers' own way

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the last layer: [tokens, hidden]. Fills the cache."""
        self._step.inputs, self._step.cache = inputs, cache
        output = self._compute(
            input_ids=inputs.token_ids[None].long(),
            position_ids=inputs.positions[None],
            use_cache=False,
        )
        self._output_type = type(output)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Float32 [rows, part]: the rank's part of the vocabulary."""
        self._recalled = hidden[None]
        no_ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        logits: Tensor = self._module(input_ids=no_ids, use_cache=False).logits[0]
        return self._part.cut(logits.float(), float("-inf"))

    def _recall(self, *_: object, **__: object) -> Any:
        """What stands for the body's forward when the head is asked."""
        return self._output_type(last_hidden_state=self._recalled)
