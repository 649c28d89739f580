// From a projection to queries and to cached keys and values: clipped, normed, turned, stored.
#include "lanes.h"
#include "parallel.h"
#include "spread.h"
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
void prefetch_place(const Cache& cache, int64_t slot) {
  const int64_t size = cache.num_kv_heads * cache.head_dim;
  const int64_t bytes = size * static_cast<int64_t>(sizeof(Element));
  prefetch(static_cast<const Element*>(cache.keys) + slot * size, bytes);
  prefetch(static_cast<const Element*>(cache.values) + slot * size, bytes);
}

// As ops/rounded_rows.py; the scale is not finite where a number is not.
void round_row(const float* x, int64_t size, int8_t* numbers, BFloat16* scale) {
  BFloat16 narrow[kLanes];
  store(narrow, broadcast(largest_magnitude(x, size) / 127.0f));
  *scale = narrow[0];
  const float rounded = widened(*scale);
  const Float16x divisor = broadcast(rounded == 0 ? 1.0f : rounded), limit = broadcast(127.0f);
  for_lanes(size, [&](int64_t i, int count) {
    const Float16x whole = round_to_even(load_some(x + i, count) / divisor);
    int8_t bytes[kLanes];
    store_bytes(bytes, minimum(maximum(whole, zeros() - limit), limit));
    for (int lane = 0; lane < count; ++lane) numbers[i + lane] = bytes[lane];
  });
}

// A row's keys, [num_kv_heads, head_dim], and its values behind them.
template <class Element>
void store_keys_and_values(const Cache& cache, float* keys, int64_t slot) {
  const int64_t size = cache.num_kv_heads * cache.head_dim;
  store_head(keys, size, static_cast<Element*>(cache.keys) + slot * size);
  store_head(keys + size, size, static_cast<Element*>(cache.values) + slot * size);
}
template <>
void store_keys_and_values<int8_t>(const Cache& cache, float* keys, int64_t slot) {
  const int64_t head_dim = cache.head_dim;
  float* values = keys + cache.num_kv_heads * head_dim;
  for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
    const int64_t row = slot * cache.num_kv_heads + head, scale = scale_index(cache, slot, head);
    spread(keys + head * head_dim, head_dim);
    round_row(keys + head * head_dim, head_dim,
              static_cast<int8_t*>(cache.keys) + row * head_dim, cache.key_scales + scale);
    round_row(values + head * head_dim, head_dim,
              static_cast<int8_t*>(cache.values) + row * head_dim, cache.value_scales + scale);
  }
}

template <class Element>
void store_row(const HeadsCall& call, int64_t row) {
  const int64_t head_dim = call.cache.head_dim, num_kv_heads = call.cache.num_kv_heads;
  const int64_t num_heads = call.num_heads, all_heads = num_heads + 2 * num_kv_heads;
  prefetch_place<Element>(call.cache, call.slots[row]);
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
  store_keys_and_values<Element>(call.cache, key, call.slots[row]);
}

}  // namespace

void store_heads(const HeadsCall& call) {
  const int64_t width = (call.num_heads + 2 * call.cache.num_kv_heads) * call.cache.head_dim;
  share_out_rows(call.num_threads, call.rows, width, [&](int64_t row) {
    with_element(call.cache, [&](auto element) { store_row<decltype(element)>(call, row); });
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
