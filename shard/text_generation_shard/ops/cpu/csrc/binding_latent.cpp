// Latent attention, as Python sees it.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Of one head, whose keys begin with the values.
Cache latent_cache(const Tensor& keys, int64_t latent_dim) {
  const auto type = keys.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "a cache of ", type);
  TORCH_CHECK(keys.dim() == 4 && keys.size(2) == 1 && keys.size(3) > latent_dim,
              "keys must be [num_blocks, block_size, 1, more than ", latent_dim, "], got ",
              keys.sizes());
  check_dense(keys, "keys", type, -1);
  return {.keys = keys.data_ptr(), .values = keys.data_ptr(),
          .type = type == at::kBFloat16 ? CacheType::kBFloat16 : CacheType::kFloat32,
          .block_size = keys.size(1), .num_kv_heads = 1, .head_dim = keys.size(3),
          .value_dim = latent_dim, .value_stride = keys.size(3)};
}

void check_stack(const MatrixStack* stack, const char* name, int64_t heads, int64_t outputs,
                 int64_t inputs) {
  TORCH_CHECK(stack != nullptr && stack->size() == heads && stack->outputs() == outputs &&
                  stack->inputs() == inputs,
              name, " must be ", heads, " matrices [", outputs, ", ", inputs, "]");
}

}  // namespace

void Operators::store_latent(const Tensor& key, const NormFields& norm, const Tensor& query,
                             const RotationFields& rotation, const Tensor& keys,
                             const Tensor& slots) const {
  const auto& [cos, signed_sin, is_interleaved] = rotation;
  const int64_t rows = slots.numel(), latent_dim = std::get<0>(norm).numel();
  const Cache cache = latent_cache(keys, latent_dim);
  const int64_t turned_dim = cache.head_dim - latent_dim;
  TORCH_CHECK(turned_dim % 2 == 0, turned_dim, " turning dimensions");
  check_rows(key, "key", cache.head_dim);
  TORCH_CHECK(key.size(0) == rows && query.dim() == 3 && query.size(0) == rows &&
                  query.size(2) > turned_dim,
              "key ", key.sizes(), " and query ", query.sizes(), " of ", rows, " slots");
  check_dense(query, "query", at::kFloat, -1);
  check_dense(cos, "cos", at::kFloat, rows * turned_dim);
  check_dense(signed_sin, "signed_sin", at::kFloat, rows * turned_dim);
  check_dense(slots, "slots", at::kLong, rows);
  check_slots(slots, keys.size(0) * cache.block_size);
  kernels_.store_latent({key.const_data_ptr<float>(), key.stride(0), norm_of(norm, latent_dim),
                         query.data_ptr<float>(), rows, query.size(1), latent_dim,
                         query.size(2) - turned_dim, turned_dim, cos.const_data_ptr<float>(),
                         signed_sin.const_data_ptr<float>(), is_interleaved,
                         slots.const_data_ptr<int64_t>(), cache, num_threads()});
}

Tensor Operators::attend_latent(const Tensor& query, const ExpansionFields& expansion,
                                const Tensor& keys, const Tensor& block_tables,
                                const Tensor& first_rows, const Tensor& contexts,
                                double scale) const {
  const auto& [to_latent, to_key, from_latent] = expansion;
  TORCH_CHECK(to_latent != nullptr && from_latent != nullptr, "latent attention needs matrices");
  const int64_t latent_dim = to_latent->outputs(), plain_dim = to_latent->inputs();
  const Cache cache = latent_cache(keys, latent_dim);
  const int64_t turned_dim = cache.head_dim - latent_dim, requests = contexts.numel();
  TORCH_CHECK(query.dim() == 3 && query.size(2) == plain_dim + turned_dim,
              "query must be [rows, num_heads, ", plain_dim + turned_dim, "], got ", query.sizes());
  check_dense(query, "query", at::kFloat, -1);
  const int64_t heads = query.size(1), value_dim = from_latent->outputs();
  check_stack(to_latent, "to_latent", heads, latent_dim, plain_dim);
  check_stack(to_key, "to_key", heads, plain_dim, latent_dim);
  check_stack(from_latent, "from_latent", heads, value_dim, latent_dim);
  check_dense(block_tables, "block_tables", at::kInt, -1);
  TORCH_CHECK(block_tables.dim() == 2 && block_tables.size(0) == requests,
              "block_tables must be [requests, max_blocks]");
  check_dense(contexts, "contexts", at::kLong, requests);
  check_dense(first_rows, "first_rows", at::kLong, requests + 1);
  Tensor out = at::empty({query.size(0), heads, value_dim}, query.options());
  kernels_.attend_latent(
      {kernels_.linear.compute, query.const_data_ptr<float>(), heads, plain_dim, turned_dim,
       latent_dim, value_dim, to_latent->weights(), to_key->weights(), from_latent->weights(),
       cache, block_tables.const_data_ptr<int32_t>(), block_tables.size(1), requests,
       first_rows.const_data_ptr<int64_t>(), contexts.const_data_ptr<int64_t>(),
       static_cast<float>(scale), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

Tensor Operators::latent_attention(const Tensor& query, const Tensor& key, const NormFields& norm,
                                   const RotationFields& rotation, const ExpansionFields& expansion,
                                   const LatentCacheFields& cache, const Tensor& slots,
                                   const PlanFields& plan, double scale) const {
  const auto& [keys, values] = cache;
  const auto& [tables, first_rows, contexts, sliding_window, attention_chunk] = plan;
  TORCH_CHECK(values.data_ptr() == keys.data_ptr(), "values must be the first part of the keys");
  TORCH_CHECK(sliding_window == 0 && attention_chunk == 0, "latent attention has no window");
  store_latent(key, norm, query, rotation, keys, slots);
  return attend_latent(query, expansion, keys, tables, first_rows, contexts, scale);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
