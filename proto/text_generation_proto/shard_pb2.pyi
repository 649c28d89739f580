from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("model_type", "dtype", "device_type", "vocab_size", "max_position_embeddings", "world_size", "rank", "decoder_start_token_id", "supports_prefix_cache")
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITION_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    DECODER_START_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_PREFIX_CACHE_FIELD_NUMBER: _ClassVar[int]
    model_type: str
    dtype: str
    device_type: str
    vocab_size: int
    max_position_embeddings: int
    world_size: int
    rank: int
    decoder_start_token_id: int
    supports_prefix_cache: bool
    def __init__(self, model_type: _Optional[str] = ..., dtype: _Optional[str] = ..., device_type: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_position_embeddings: _Optional[int] = ..., world_size: _Optional[int] = ..., rank: _Optional[int] = ..., decoder_start_token_id: _Optional[int] = ..., supports_prefix_cache: _Optional[bool] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("last_step", "last_step_age_ms", "step_in_flight", "step_in_flight_age_ms", "has_step_stream")
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    STEP_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STEP_IN_FLIGHT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    HAS_STEP_STREAM_FIELD_NUMBER: _ClassVar[int]
    last_step: int
    last_step_age_ms: float
    step_in_flight: int
    step_in_flight_age_ms: float
    has_step_stream: bool
    def __init__(self, last_step: _Optional[int] = ..., last_step_age_ms: _Optional[float] = ..., step_in_flight: _Optional[int] = ..., step_in_flight_age_ms: _Optional[float] = ..., has_step_stream: _Optional[bool] = ...) -> None: ...

class WarmupRequest(_message.Message):
    __slots__ = ("max_slots", "max_step_tokens", "max_total_tokens", "block_size", "max_cache_tokens", "max_top_n_tokens", "eos_token_ids")
    MAX_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    max_slots: int
    max_step_tokens: int
    max_total_tokens: int
    block_size: int
    max_cache_tokens: int
    max_top_n_tokens: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, max_slots: _Optional[int] = ..., max_step_tokens: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., block_size: _Optional[int] = ..., max_cache_tokens: _Optional[int] = ..., max_top_n_tokens: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class WarmupResponse(_message.Message):
    __slots__ = ("num_blocks", "block_size", "max_total_tokens", "cache_bytes", "weight_bytes", "measured_tokens", "measured_decodes", "measured_ms", "grammar_error")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_DECODES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_MS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_ERROR_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    block_size: int
    max_total_tokens: int
    cache_bytes: int
    weight_bytes: int
    measured_tokens: _containers.RepeatedScalarFieldContainer[int]
    measured_decodes: _containers.RepeatedScalarFieldContainer[int]
    measured_ms: _containers.RepeatedScalarFieldContainer[float]
    grammar_error: str
    def __init__(self, num_blocks: _Optional[int] = ..., block_size: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., cache_bytes: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., measured_tokens: _Optional[_Iterable[int]] = ..., measured_decodes: _Optional[_Iterable[int]] = ..., measured_ms: _Optional[_Iterable[float]] = ..., grammar_error: _Optional[str] = ...) -> None: ...

class SamplingParameters(_message.Message):
    __slots__ = ("do_sample", "temperature", "top_k", "top_p", "typical_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "watermark", "seed", "logit_bias_ids", "logit_bias_values")
    DO_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    typical_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    watermark: bool
    seed: int
    logit_bias_ids: _containers.RepeatedScalarFieldContainer[int]
    logit_bias_values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, do_sample: _Optional[bool] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., typical_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., watermark: _Optional[bool] = ..., seed: _Optional[int] = ..., logit_bias_ids: _Optional[_Iterable[int]] = ..., logit_bias_values: _Optional[_Iterable[float]] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("slot", "sequence_id", "token_ids", "num_emitted", "num_cached_tokens", "block_ids", "sampling", "top_n_tokens", "prompt_logprobs", "grammar", "encoder_token_ids", "encoder_block_ids")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_EMITTED_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOP_N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    ENCODER_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    sequence_id: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_emitted: int
    num_cached_tokens: int
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: SamplingParameters
    top_n_tokens: int
    prompt_logprobs: bool
    grammar: str
    encoder_token_ids: _containers.RepeatedScalarFieldContainer[int]
    encoder_block_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slot: _Optional[int] = ..., sequence_id: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., num_emitted: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., block_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., top_n_tokens: _Optional[int] = ..., prompt_logprobs: _Optional[bool] = ..., grammar: _Optional[str] = ..., encoder_token_ids: _Optional[_Iterable[int]] = ..., encoder_block_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("step", "retired_slots", "admissions", "work_slots", "work_num_tokens", "work_num_new_blocks", "new_block_ids")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RETIRED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    ADMISSIONS_FIELD_NUMBER: _ClassVar[int]
    WORK_SLOTS_FIELD_NUMBER: _ClassVar[int]
    WORK_NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WORK_NUM_NEW_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NEW_BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    retired_slots: _containers.RepeatedScalarFieldContainer[int]
    admissions: _containers.RepeatedCompositeFieldContainer[Admission]
    work_slots: _containers.RepeatedScalarFieldContainer[int]
    work_num_tokens: _containers.RepeatedScalarFieldContainer[int]
    work_num_new_blocks: _containers.RepeatedScalarFieldContainer[int]
    new_block_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, step: _Optional[int] = ..., retired_slots: _Optional[_Iterable[int]] = ..., admissions: _Optional[_Iterable[_Union[Admission, _Mapping]]] = ..., work_slots: _Optional[_Iterable[int]] = ..., work_num_tokens: _Optional[_Iterable[int]] = ..., work_num_new_blocks: _Optional[_Iterable[int]] = ..., new_block_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PromptLogprobs(_message.Message):
    __slots__ = ("slot", "first_position", "logprobs", "top_n_token_ids", "top_n_logprobs")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    first_position: int
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_n_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_n_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, slot: _Optional[int] = ..., first_position: _Optional[int] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_n_token_ids: _Optional[_Iterable[int]] = ..., top_n_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class StepError(_message.Message):
    __slots__ = ("kind", "message", "slots")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[StepError.Kind]
        KIND_RECOVERABLE: _ClassVar[StepError.Kind]
        KIND_FATAL: _ClassVar[StepError.Kind]
    KIND_UNSPECIFIED: StepError.Kind
    KIND_RECOVERABLE: StepError.Kind
    KIND_FATAL: StepError.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    kind: StepError.Kind
    message: str
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[_Union[StepError.Kind, str]] = ..., message: _Optional[str] = ..., slots: _Optional[_Iterable[int]] = ...) -> None: ...

class SequenceFailure(_message.Message):
    __slots__ = ("slot", "message")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    message: str
    def __init__(self, slot: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("step", "error", "token_ids", "logprobs", "top_n_counts", "top_n_token_ids", "top_n_logprobs", "prompt_logprobs", "total_us", "forward_us", "sampled_checksum", "failures", "num_graphs", "is_replayed")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    NUM_GRAPHS_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAYED_FIELD_NUMBER: _ClassVar[int]
    step: int
    error: StepError
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_n_counts: _containers.RepeatedScalarFieldContainer[int]
    top_n_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_n_logprobs: _containers.RepeatedScalarFieldContainer[float]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptLogprobs]
    total_us: int
    forward_us: int
    sampled_checksum: int
    failures: _containers.RepeatedCompositeFieldContainer[SequenceFailure]
    num_graphs: int
    is_replayed: bool
    def __init__(self, step: _Optional[int] = ..., error: _Optional[_Union[StepError, _Mapping]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_n_counts: _Optional[_Iterable[int]] = ..., top_n_token_ids: _Optional[_Iterable[int]] = ..., top_n_logprobs: _Optional[_Iterable[float]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptLogprobs, _Mapping]]] = ..., total_us: _Optional[int] = ..., forward_us: _Optional[int] = ..., sampled_checksum: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[SequenceFailure, _Mapping]]] = ..., num_graphs: _Optional[int] = ..., is_replayed: _Optional[bool] = ...) -> None: ...
