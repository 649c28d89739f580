// Parts that attention of single rows and of chunks share.
#pragma once

#include "parallel.h"
#include "simd.h"
#include "spread.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Some rows of one request for some query heads, which lie side by side. Several rows: those of one
// KV head; one row: all of the KV heads, or some of one.
struct AttentionTask {
  int64_t request;
  Range heads;              // query heads
  Range rows;               // of the whole step
  int64_t first_position;   // of rows.begin in its sequence
};

inline int64_t group_size(const AttentionCall& call) {
  return call.num_heads / call.cache.num_kv_heads;
}

// The KV head that a query head reads.
inline int64_t kv_head_of(const AttentionCall& call, int64_t query_head) {
  return query_head / group_size(call);
}

// Widths of keys and values, filled up to whole lanes.
inline int64_t padded_head_dim(const AttentionCall& call) {
  return ceil_lanes(call.cache.head_dim);
}
inline int64_t padded_value_dim(const AttentionCall& call) {
  return ceil_lanes(call.cache.value_dim);
}

// First position that a row at `position` sees.
inline int64_t first_visible(const AttentionCall& call, int64_t position) {
  if (call.attention_chunk > 0) return position - position % call.attention_chunk;
  const int64_t first = position - call.sliding_window + 1;
  return call.sliding_window == 0 || first < 0 ? 0 : first;
}

// Where the tokens of a request lie in the flattened cache: one after the other, from some position.
class Places {
 public:
  Places(const AttentionCall& call, int64_t request, int64_t position)
      : block_size_(call.cache.block_size),
        block_(call.block_tables + request * call.max_blocks + position / block_size_),
        offset_(position % block_size_) {}

  int64_t next() {
    const int64_t place = *block_ * block_size_ + offset_;
    if (++offset_ == block_size_) {
      offset_ = 0;
      ++block_;
    }
    return place;
  }

 private:
  int64_t block_size_;
  const int32_t* block_;
  int64_t offset_;
};

template <class Element>
const Element* key_at(const AttentionCall& call, int64_t place, int64_t kv_head) {
  const int64_t index = place * call.cache.num_kv_heads + kv_head;
  return static_cast<const Element*>(call.cache.keys) + index * call.cache.head_dim;
}
template <class Element>
const Element* value_at(const AttentionCall& call, int64_t place, int64_t kv_head) {
  const int64_t index = place * call.cache.num_kv_heads + kv_head;
  return static_cast<const Element*>(call.cache.values) + index * call.cache.value_stride;
}

// What the numbers there are multiplied by.
template <class Element>
float key_scale_at(const AttentionCall& call, int64_t place, int64_t kv_head) {
  if constexpr (sizeof(Element) > 1) return 1;
  return widened(call.cache.key_scales[scale_index(call.cache, place, kv_head)]);
}
template <class Element>
float value_scale_at(const AttentionCall& call, int64_t place, int64_t kv_head) {
  if constexpr (sizeof(Element) > 1) return 1;
  return widened(call.cache.value_scales[scale_index(call.cache, place, kv_head)]);
}

inline Float16x load_some(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, static_cast<int>(count));
}
inline Float16x load_some(const BFloat16* p, int64_t count) {
  if (count >= kLanes) return load(p);
  BFloat16 lanes[kLanes] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = p[lane];
  return load(lanes);
}
inline Float16x load_some(const int8_t* p, int64_t count) {
  if (count >= kLanes) return load(p);
  int8_t lanes[kLanes] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = p[lane];
  return load(lanes);
}
inline void store_some(float* p, Float16x x, int64_t count) {
  if (count >= kLanes) {
    store(p, x);
  } else {
    store_first(p, x, static_cast<int>(count));
  }
}

inline void store_some(BFloat16* p, Float16x x, int64_t count) {
  if (count >= kLanes) return store(p, x);
  BFloat16 lanes[kLanes];
  store(lanes, x);
  for (int lane = 0; lane < count; ++lane) p[lane] = lanes[lane];
}

// What some models do to scores. scores: [count], count a multiple of sixteen, of one query head;
// `distance`: position of the first key less that of the query.
inline void adjust_scores(const AttentionCall& call, int64_t query_head, int64_t distance,
                          float* scores, int64_t count) {
  if (call.soft_cap > 0) {
    const Float16x cap = broadcast(call.soft_cap);
    for (int64_t i = 0; i < count; i += kLanes) {
      store(scores + i, cap * hyperbolic_tangent(load(scores + i) / cap));
    }
  }
  if (call.alibi_slopes != nullptr) {
    const float slope = call.alibi_slopes[query_head];
    for (int64_t i = 0; i < count; ++i) scores[i] += slope * static_cast<float>(distance + i);
  }
  if (call.distance_bias != nullptr) {
    const float* bias = call.distance_bias + query_head * call.distances;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t back = -(distance + i);  // negative for keys that the query does not see
      scores[i] += bias[back < 0 ? 0 : back < call.distances ? back : call.distances - 1];
    }
  }
}

// One row of scores becomes weights e^(score - greatest), as the running softmax needs them.
struct RunningSoftmax {
  float greatest = -3.0e38f;
  float total = 0;

  // scores: [count], count a multiple of sixteen; entries outside `visible` become 0. Returns the
  // factor for what was summed before.
  float update(float* scores, int64_t count, Range visible) {
    for (int64_t i = 0; i < visible.begin; ++i) scores[i] = -3.0e38f;
    for (int64_t i = visible.end; i < count; ++i) scores[i] = -3.0e38f;
    Float16x most = broadcast(greatest);
    for (int64_t i = 0; i < count; i += kLanes) most = maximum(load(scores + i), most);
    const float before = greatest;
    greatest = largest(most);
    Float16x sums = zeros();
    for (int64_t i = 0; i < count; i += kLanes) {
      const Float16x weights = exponential(load(scores + i) - broadcast(greatest));
      store(scores + i, weights);
      sums = sums + weights;
    }
    for (int64_t i = 0; i < visible.begin; ++i) scores[i] = 0;
    for (int64_t i = visible.end; i < count; ++i) scores[i] = 0;
    float factor[kLanes];
    store(factor, exponential(broadcast(before - greatest)));
    total = total * factor[0] + sum(sums);
    return factor[0];
  }
};

// Before the first score: what a sink leaves behind, if the head has one.
inline RunningSoftmax first_softmax(const AttentionCall& call, int64_t query_head) {
  return call.sinks == nullptr ? RunningSoftmax{} : RunningSoftmax{call.sinks[query_head], 1};
}

// A task of one row; `following`: one like it that this thread will compute next, or null.
template <class Element>
void attend_row(const AttentionCall& call, const AttentionTask& task,
                const AttentionTask* following);
// A task of several rows.
template <class Element>
void attend_chunk(const AttentionCall& call, const AttentionTask& task);

// The same of several rows and of one by dot products of bfloat16 pairs, where the cache is in
// bfloat16 and the processor has them; of calls that `takes_pairs`.
void attend_pairs(const AttentionCall& call, const AttentionTask& task);
void attend_row_pairs(const AttentionCall& call, const AttentionTask& task,
                      const AttentionTask* following);
bool takes_pairs(const AttentionCall& call);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
