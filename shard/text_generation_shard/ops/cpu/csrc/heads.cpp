// From a projection to queries and to cached keys and values: clipped, normed, turned, stored.
#include "lanes.h"
#include "parallel.h"
#include "turn.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

void clip_heads(float* x, int64_t size, float clip) {
  const Float16x limit = broadcast(clip);
  for_lanes(size, [&](int64_t i, int count) {
    // The second operand, if it is not a number.
    const Float16x clipped = minimum(limit, maximum(zeros() - limit, load_some(x + i, count)));
    store_some(x + i, clipped, count);
  });
}

void norm_heads(float* x, int64_t heads, int64_t head_dim, const Norm& norm, int64_t stride) {
  if (norm.weight == nullptr) return;
  for (int64_t head = 0; head < heads; ++head, x += head_dim) {
    const NormFactors factors = norm_factors(x, head_dim, norm);
    const float* weight = norm.weight + head * stride;
    for_lanes(head_dim, [&](int64_t i, int count) {
      store_some(x + i, normed(load_some(x + i, count), factors, norm, weight, i, count), count);
    });
  }
}

void warm_heads(float* x, int64_t size, float temperature) {
  for_lanes(size, [&](int64_t i, int count) {
    store_some(x + i, load_some(x + i, count) * broadcast(temperature), count);
  });
}

void store_head(const float* x, int64_t head_dim, float* out) {
  for_lanes(head_dim, [&](int64_t i, int count) {
    store_some(out + i, load_some(x + i, count), count);
  });
}
void store_head(const float* x, int64_t head_dim, BFloat16* out) {
  for_lanes(head_dim, [&](int64_t i, int count) {
    BFloat16 narrow[kLanes];
    store(narrow, load_some(x + i, count));
    for (int lane = 0; lane < count; ++lane) out[i + lane] = narrow[lane];
  });
}

// Ask for memory that will be written; a cache's is nowhere near.
void prefetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 1);
}

template <class Element>
void store_row(const HeadsCall& call, int64_t row) {
  const int64_t head_dim = call.cache.head_dim, num_kv_heads = call.cache.num_kv_heads;
  const int64_t num_heads = call.num_heads, all_heads = num_heads + 2 * num_kv_heads;
  const int64_t size = num_kv_heads * head_dim, place = call.slots[row] * size;
  auto* const cached_key = static_cast<Element*>(call.cache.keys) + place;
  auto* const cached_value = static_cast<Element*>(call.cache.values) + place;
  prefetch(cached_key, size * static_cast<int64_t>(sizeof(Element)));
  prefetch(cached_value, size * static_cast<int64_t>(sizeof(Element)));
  float* query = call.qkv + row * all_heads * head_dim;
  float* key = query + num_heads * head_dim;
  const auto norm_both = [&] {
    norm_heads(query, num_heads, head_dim, call.query_norm, call.query_norm_stride);
    norm_heads(key, num_kv_heads, head_dim, call.key_norm, call.key_norm_stride);
  };
  if (call.clip > 0) clip_heads(query, all_heads * head_dim, call.clip);
  if (!call.norms_turned) norm_both();
  const float* cos = call.cos + row * call.rotary_dim;
  const float* signed_sin = call.signed_sin + row * call.rotary_dim;
  const auto turn = call.is_interleaved ? turn_pairs : turn_halves;
  for (int64_t head = 0; call.rotary_dim > 0 && head < num_heads + num_kv_heads; ++head) {
    turn(cos, signed_sin, call.rotary_dim, query + head * head_dim);
  }
  if (call.norms_turned) norm_both();
  if (call.temperature != nullptr) warm_heads(query, num_heads * head_dim, call.temperature[row]);
  store_head(key, size, cached_key);
  store_head(key + size, size, cached_value);
}

}  // namespace

void store_heads(const HeadsCall& call) {
  const int64_t width = (call.num_heads + 2 * call.cache.num_kv_heads) * call.cache.head_dim;
  share_out_rows(call.num_threads, call.rows, width, [&](int64_t row) {
    if (call.cache.is_bfloat16) {
      store_row<BFloat16>(call, row);
    } else {
      store_row<float>(call, row);
    }
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
