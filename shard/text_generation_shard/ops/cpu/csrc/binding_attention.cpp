// Attention and its cache, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

CacheType cache_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return CacheType::kFloat32;
    case at::kBFloat16: return CacheType::kBFloat16;
    case at::kChar: return CacheType::kInt8;
    default: TORCH_CHECK(false, "a cache of ", type);
  }
}

// Null where numbers mean what they are.
BFloat16* scales_of(const OptionalTensor& scales, const Tensor& numbers, const char* name) {
  const bool is_scaled = numbers.scalar_type() == at::kChar;
  TORCH_CHECK(scales.has_value() == is_scaled, name, ": int8 has scales, and nothing else has");
  if (!is_scaled) return nullptr;
  check_dense(*scales, name, at::kBFloat16, numbers.size(0) * numbers.size(1) * numbers.size(2));
  return static_cast<BFloat16*>(scales->data_ptr());
}

Cache cache_of(const CacheFields& stored) {
  const auto& [keys, values, key_scales, value_scales] = stored;
  const auto type = keys.scalar_type();
  TORCH_CHECK(keys.dim() == 4, "keys must be [num_blocks, block_size, num_kv_heads, head_dim]");
  check_dense(keys, "keys", type, -1);
  const int64_t block_size = keys.size(1), num_kv_heads = keys.size(2);
  const int64_t value_stride = values.stride(2);
  TORCH_CHECK(values.device().is_cpu() && values.dim() == 4 && values.scalar_type() == type &&
                  values.size(0) == keys.size(0) && values.size(1) == block_size &&
                  values.size(2) == num_kv_heads && values.stride(3) == 1 &&
                  values.stride(1) == num_kv_heads * value_stride &&
                  values.stride(0) == block_size * values.stride(1),
              "values must have the keys' type and lie like keys ", keys.sizes(), ", got ",
              values.scalar_type(), " ", values.sizes(), " with strides ", values.strides());
  return {.keys = keys.data_ptr(),
          .values = values.data_ptr(),
          .key_scales = scales_of(key_scales, keys, "key_scales"),
          .value_scales = scales_of(value_scales, keys, "value_scales"),
          .type = cache_type(type),
          .block_size = block_size,
          .num_kv_heads = num_kv_heads,
          .head_dim = keys.size(3),
          .value_dim = values.size(3),
          .value_stride = value_stride};
}

// From a head's weight to the next one's: all have one, or each its own.
int64_t head_norm_stride(const NormFields& norm, int64_t num_heads) {
  const Tensor& weight = std::get<0>(norm);
  if (weight.dim() == 1) return 0;
  TORCH_CHECK(weight.dim() == 2 && weight.size(0) == num_heads, "weights must be of ", num_heads,
              " heads, got ", weight.sizes());
  return weight.size(1);
}

void set_rotation(const RotationFields& rotation, int64_t rows, int64_t head_dim,
                  HeadsCall& call) {
  const auto& [cos, signed_sin, is_interleaved] = rotation;
  const int64_t rotary_dim = cos.size(-1);
  TORCH_CHECK(rotary_dim <= head_dim && rotary_dim % 2 == 0, rotary_dim,
              " turning dimensions of ", head_dim);
  check_dense(cos, "cos", at::kFloat, rows * rotary_dim);
  check_dense(signed_sin, "signed_sin", at::kFloat, rows * rotary_dim);
  call.cos = cos.const_data_ptr<float>();
  call.signed_sin = signed_sin.const_data_ptr<float>();
  call.rotary_dim = rotary_dim;
  call.is_interleaved = is_interleaved;
}

}  // namespace

void Operators::store_heads(const Tensor& qkv, const HeadFields& heads,
                            const std::optional<RotationFields>& rotation,
                            const OptionalTensor& temperature, const CacheFields& stored,
                            const Tensor& slots) const {
  const auto& [clip, query_norm, key_norm, norms_turned] = heads;
  const Tensor& keys = std::get<0>(stored);
  const Cache cache = cache_of(stored);
  const int64_t rows = slots.numel(), head_dim = cache.head_dim;
  TORCH_CHECK(cache.value_dim == head_dim && cache.value_stride == head_dim,
              "keys and values must be equally wide and lie apart");
  check_rows(qkv, "qkv", -1);
  check_dense(qkv, "qkv", at::kFloat, -1);
  const int64_t num_heads = qkv.size(1) / head_dim - 2 * cache.num_kv_heads;
  TORCH_CHECK(qkv.size(0) == rows && num_heads > 0 && qkv.size(1) % head_dim == 0, "qkv ",
              qkv.sizes(), " does not fit ", rows, " slots and a cache ", keys.sizes());
  check_dense(slots, "slots", at::kLong, rows);
  check_slots(slots, keys.size(0) * cache.block_size);
  HeadsCall call = {.qkv = qkv.data_ptr<float>(),
                    .clip = static_cast<float>(clip),
                    .norms_turned = norms_turned,
                    .temperature = data_of<float>(temperature),
                    .slots = slots.const_data_ptr<int64_t>(),
                    .rows = rows,
                    .num_heads = num_heads,
                    .cache = cache,
                    .num_threads = num_threads()};
  if (temperature.has_value()) check_dense(*temperature, "temperature", at::kFloat, rows);
  if (query_norm.has_value()) {
    call.query_norm_stride = head_norm_stride(*query_norm, num_heads);
    call.query_norm = norm_of(*query_norm, head_dim);
  }
  if (key_norm.has_value()) {
    call.key_norm_stride = head_norm_stride(*key_norm, cache.num_kv_heads);
    call.key_norm = norm_of(*key_norm, head_dim);
  }
  if (rotation.has_value()) set_rotation(*rotation, rows, head_dim, call);
  kernels_.store_heads(call);
}

Tensor Operators::attend(const Tensor& query, const CacheFields& stored, const PlanFields& plan,
                         double scale, double soft_cap, const OptionalTensor& alibi_slopes,
                         const OptionalTensor& distance_bias, const OptionalTensor& sinks) const {
  const Cache cache = cache_of(stored);
  const auto& [block_tables, first_rows, contexts, sliding_window, attention_chunk] = plan;
  const int64_t requests = contexts.numel();
  TORCH_CHECK(query.dim() == 3 && query.scalar_type() == at::kFloat &&
                  query.size(2) == cache.head_dim && query.size(1) % cache.num_kv_heads == 0 &&
                  query.stride(2) == 1 && query.stride(1) == cache.head_dim,
              "query must be float32 [rows, num_heads, head_dim] with contiguous rows, got ",
              query.scalar_type(), " ", query.sizes());
  check_dense(block_tables, "block_tables", at::kInt, -1);
  TORCH_CHECK(block_tables.dim() == 2 && block_tables.size(0) == requests,
              "block_tables must be [requests, max_blocks]");
  check_dense(contexts, "contexts", at::kLong, requests);
  check_dense(first_rows, "first_rows", at::kLong, requests + 1);
  if (alibi_slopes.has_value()) {
    check_dense(*alibi_slopes, "alibi_slopes", at::kFloat, query.size(1));
  }
  if (distance_bias.has_value()) {
    check_dense(*distance_bias, "distance_bias", at::kFloat, -1);
    TORCH_CHECK(distance_bias->dim() == 2 && distance_bias->size(0) == query.size(1) &&
                    distance_bias->size(1) > 0,
                "distance_bias must be [num_heads, distances], got ", distance_bias->sizes());
  }
  if (sinks.has_value()) check_dense(*sinks, "sinks", at::kFloat, query.size(1));
  Tensor out = at::empty({query.size(0), query.size(1), cache.value_dim}, query.options());
  kernels_.attend({query.const_data_ptr<float>(), query.stride(0), query.size(1), cache,
                   block_tables.const_data_ptr<int32_t>(), block_tables.size(1), requests,
                   first_rows.const_data_ptr<int64_t>(), contexts.const_data_ptr<int64_t>(),
                   sliding_window, attention_chunk, static_cast<float>(scale),
                   static_cast<float>(soft_cap), data_of<float>(alibi_slopes),
                   data_of<float>(distance_bias),
                   distance_bias.has_value() ? distance_bias->size(1) : 0, data_of<float>(sinks),
                   out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
