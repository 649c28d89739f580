// Attention of one row (a decode step): bound by reading keys and values, each of them once, for
// all query heads that share them. A task walks over the context once, tile by tile, and goes
// through its KV heads within a tile: so it reads the cache as it lies, and asks for the next tile
// while it computes one.
#include <type_traits>

#include "attention_row_integer.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Scaled queries, filled up with zeros.
void load_query(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  const float* query =
      call.query + task.rows.begin * call.query_stride + task.heads.begin * head_dim;
  const int64_t heads = task.heads.end - task.heads.begin;
  for (int64_t head = 0; head < heads; ++head) {
    memory.softmax[head] = first_softmax(call, task.heads.begin + head);
    for (int64_t i = 0; i < padded; i += kLanes) {
      const Float16x x = load_some(query + head * head_dim + i, head_dim - i);
      store(memory.query + head * padded + i, x * broadcast(call.scale));
    }
    if (call.cache.type == CacheType::kInt8) {
      spread(memory.query + head * padded, head_dim);
      round_query(call, memory, head);
    }
  }
  const int64_t num_sums = heads * padded_value_dim(call);
  for (int64_t i = 0; i < num_sums; i += kLanes) store(memory.sums + i, zeros());
}

// products[head * Tokens + token] += query x key, in a part of the lanes of head_dim.
template <class Element, int Heads, int Tokens>
[[gnu::always_inline]] inline void add_products(TileRows<Element> keys, const float* query,
                                                int64_t padded, int64_t i, int64_t count,
                                                Float16x* products) {
  Float16x key[Tokens];
  for (int token = 0; token < Tokens; ++token) key[token] = load_some(keys.at(token) + i, count);
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    const Float16x x = load(query + head * padded + i);
#pragma GCC unroll 16
    for (int token = 0; token < Tokens; ++token) {
      products[head * Tokens + token] = fma(x, key[token], products[head * Tokens + token]);
    }
  }
}

template <int Heads, int Tokens, class Element>
[[gnu::always_inline]] inline void multiply_keys(TileRows<Element> keys, int64_t head_dim,
                                                 const float* query, int64_t padded,
                                                 Float16x* products) {
  Float16x sums[Heads * Tokens];
  for (Float16x& sum : sums) sum = zeros();
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    add_products<Element, Heads, Tokens>(keys, query, padded, i, kLanes, sums);
  }
  if (i < head_dim) {
    add_products<Element, Heads, Tokens>(keys, query, padded, i, head_dim - i, sums);
  }
  for (int index = 0; index < Heads * Tokens; ++index) products[index] = sums[index];
}

// Scores of as many tokens as make sixteen with the heads, or fewer.
template <class Element, int Heads>
struct ScoreGroup {
  static constexpr int kTokens = kLanes / (Heads == 3 ? 4 : Heads);
  static constexpr int kFitting = kRowSums / (Heads == 3 ? 4 : Heads);
  static constexpr int kAtOnce = kFitting < kTokens ? kFitting : kTokens;

  using Product = std::conditional_t<std::is_same_v<Element, int8_t>, PairSums, Float16x>;

  // query: [Heads], of this stride.
  template <class Number>
  static void compute(TileRows<Element> keys, int64_t head_dim, const Number* query,
                      int64_t stride, float* scores) {
    Product products[kLanes];
    if constexpr (kAtOnce == kTokens) {
      multiply_keys<Heads, kTokens>(keys, head_dim, query, stride, products);
    } else {
      for (int first = 0; first < kTokens; first += kAtOnce) {
        Product some[Heads * kAtOnce];
        multiply_keys<Heads, kAtOnce>(keys.from(first), head_dim, query, stride, some);
        for (int index = 0; index < Heads * kAtOnce; ++index) {
          products[index / kAtOnce * kTokens + first + index % kAtOnce] = some[index];
        }
      }
    }
    for (int index = Heads * kTokens; index < kLanes; ++index) products[index] = Product{};
    float sums[kLanes];
    store(sums, sum_each(products));
    for (int head = 0; head < Heads; ++head) {
      __builtin_memcpy(scores + head * kTileTokens, sums + head * kTokens, kTokens * sizeof(float));
    }
  }
};

// Some lanes of all heads' sums: sums[head] = sums[head] * factors[head] + sum over tokens of
// weight * value.
template <class Element, int Heads, int Chunks>
[[gnu::always_inline]] inline void add_lanes(TileRows<Element> values,
                                             TileRows<Element> next, int64_t tokens, int64_t i,
                                             int64_t count, const float* weights,
                                             const float* factors, float* sums, int64_t padded) {
  Float16x totals[Heads][Chunks];
  for (int head = 0; head < Heads; ++head) {
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      totals[head][chunk] =
          load(sums + head * padded + i + chunk * kLanes) * broadcast(factors[head]);
    }
  }
  for (int64_t token = 0; token < tokens; ++token) {
    prefetch(next.at(token) + i, count < kLanes ? count : Chunks * kLanes);
    Float16x value[Chunks];
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      value[chunk] = load_some(values.at(token) + i + chunk * kLanes, count);
    }
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const Float16x weight = broadcast(weights[head * kTileTokens + token]);
#pragma GCC unroll 4
      for (int chunk = 0; chunk < Chunks; ++chunk) {
        totals[head][chunk] = fma(weight, value[chunk], totals[head][chunk]);
      }
    }
  }
  for (int head = 0; head < Heads; ++head) {
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      store(sums + head * padded + i + chunk * kLanes, totals[head][chunk]);
    }
  }
}

template <class Element, int Heads>
void add_values(TileRows<Element> values, TileRows<Element> next, int64_t tokens,
                int64_t value_dim, const float* weights, const float* factors, float* sums, int64_t padded) {
  constexpr int chunks = kRowSums / kHeadsAtOnce;
  int64_t i = 0;
  for (; i + chunks * kLanes <= value_dim; i += chunks * kLanes) {
    add_lanes<Element, Heads, chunks>(values, next, tokens, i, kLanes, weights, factors, sums, padded);
  }
  for (; i < value_dim; i += kLanes) {
    add_lanes<Element, Heads, 1>(values, next, tokens, i, value_dim - i, weights, factors, sums,
                                 padded);
  }
}

// Scores of the heads from `first_head` of the task on.
template <class Element, int Heads>
void compute_scores(const AttentionCall& call, const RowMemory& memory, const TokenTile& tile,
                    const TileOfHead<Element>& part, int64_t first_head) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  // Heads that come later find the next tile asked for, and most of it in the cache: it costs little.
  using Group = ScoreGroup<Element, Heads>;
  for (int64_t token = 0; token < tile.tokens; token += Group::kTokens) {
    for (int i = 0; i < Group::kTokens; ++i) prefetch(part.next_keys.at(token + i), head_dim);
    const TileRows<Element> keys = part.keys.from(token);
    if constexpr (std::is_same_v<Element, int8_t>) {
      const int64_t stride = RowMemory::padded_words(padded);
      Group::compute(keys, head_dim, memory.query_words + first_head * stride, stride,
                     memory.scores + token);
    } else {
      Group::compute(keys, head_dim, memory.query + first_head * padded, padded,
                     memory.scores + token);
    }
  }
}

// `Heads` query heads of one KV head from `first_head` of the task on.
template <class Element, int Heads>
void attend_heads(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory,
                  const TokenTile& tile, const TileOfHead<Element>& part, int64_t first_head) {
  constexpr bool is_integer = std::is_same_v<Element, int8_t>;
  compute_scores<Element, Heads>(call, memory, tile, part, first_head);
  const int64_t length = ceil_lanes(tile.tokens);
  float factors[Heads];
  WordWeights words;
  for (int head = 0; head < Heads; ++head) {
    float* scores = memory.scores + head * kTileTokens;
    if constexpr (is_integer) {
      const Float16x scale = broadcast(memory.query_scales[first_head + head]);
      for (int64_t i = 0; i < length; i += kLanes) {
        store(scores + i, load(scores + i) * (load(part.scales.keys + i) * scale));
      }
    }
    adjust_scores(call, task.heads.begin + first_head + head,
                  tile.first_position - task.first_position, scores, length);
    factors[head] = memory.softmax[first_head + head].update(scores, length, {0, tile.tokens});
    if constexpr (is_integer) words.round(head, scores, part.scales.values, length);
  }
  const int64_t value_dim = call.cache.value_dim, padded = padded_value_dim(call);
  float* sums = memory.sums + first_head * padded;
  if constexpr (is_integer) {
    add_values<Heads>(part.values, part.next_values, tile.tokens, value_dim, words, factors,
                      sums, padded);
  } else {
    add_values<Element, Heads>(part.values, part.next_values, tile.tokens, value_dim,
                               memory.scores, factors, sums, padded);
  }
}

// The query heads of the task in [begin, end), which share a KV head.
template <class Element>
void attend_group(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory,
                  const TokenTile& tile, const TileOfHead<Element>& part, Range heads) {
  int64_t head = heads.begin;
  for (; head + kHeadsAtOnce <= heads.end; head += kHeadsAtOnce) {
    attend_heads<Element, kHeadsAtOnce>(call, task, memory, tile, part, head);
  }
  switch (heads.end - head) {
    case 3: return attend_heads<Element, 3>(call, task, memory, tile, part, head);
    case 2: return attend_heads<Element, 2>(call, task, memory, tile, part, head);
    case 1: return attend_heads<Element, 1>(call, task, memory, tile, part, head);
  }
}

// A tile for all heads of the task; `next`: the one after it, which is asked for.
template <class Element>
void attend_tile(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory,
                 const TokenTile& tile, const TokenTile& next) {
  const int64_t group = group_size(call);
  for (int64_t head = task.heads.begin; head < task.heads.end;) {
    const int64_t kv_head = kv_head_of(call, head);
    const int64_t stop = (kv_head + 1) * group < task.heads.end ? (kv_head + 1) * group
                                                               : task.heads.end;
    const TileOfHead<Element> part(call, tile, next, kv_head);
    attend_group<Element>(call, task, memory, tile, part,
                          {head - task.heads.begin, stop - task.heads.begin});
    head = stop;
  }
}

void store_row(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory) {
  const int64_t value_dim = call.cache.value_dim, padded = padded_value_dim(call);
  float* out = call.out + (task.rows.begin * call.num_heads + task.heads.begin) * value_dim;
  for (int64_t head = 0; head < task.heads.end - task.heads.begin; ++head) {
    const Float16x share = broadcast(1.0f / memory.softmax[head].total);
    for (int64_t i = 0; i < value_dim; i += kLanes) {
      const Float16x x = load(memory.sums + head * padded + i) * share;
      store_some(out + head * value_dim + i, x, value_dim - i);
    }
  }
}

}  // namespace

template <class Element>
void attend_row(const AttentionCall& call, const AttentionTask& task,
                const AttentionTask* following) {
  static thread_local Scratch scratch;
  const int64_t heads = task.heads.end - task.heads.begin;
  const RowMemory memory(scratch, heads, padded_head_dim(call), padded_value_dim(call));
  load_query(call, task, memory);
  for_tiles(call, task, following, [&](const TokenTile& tile, const TokenTile& next) {
    attend_tile<Element>(call, task, memory, tile, next);
  });
  store_row(call, task, memory);
}

template void attend_row<float>(const AttentionCall&, const AttentionTask&, const AttentionTask*);
template void attend_row<BFloat16>(const AttentionCall&, const AttentionTask&,
                                   const AttentionTask*);
template void attend_row<int8_t>(const AttentionCall&, const AttentionTask&, const AttentionTask*);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
