// Attention of one row over keys and values in bfloat16, by dot products of bfloat16 pairs: queries
// and weights are rounded to bfloat16, as in attention of a chunk; sums are float32.
//
// For query heads that share KV heads; with one for each, memory is what a row waits for. The heads'
// softmax runs side by side, see attention_row_bundles.h.
//
// Compiled for one instruction set alone, on top of AVX-512.
#include "attention_row_pairs.h"
#include "pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Behind the tokens of a tile; its weight is 0.
constexpr float kUnseen = -1.0e38f;

// Rounded to nearest, ties to even.
inline void store_rounded(BFloat16* p, Float16x x) {
  const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
}

template <int Heads>
void load_query(const AttentionCall& call, const AttentionTask& task, const RowPairMemory& memory,
                const Bundle& bundle) {
  const int64_t head_dim = call.cache.head_dim;
  constexpr int64_t step = kStep<Heads>;
  for (int head = 0; head < Heads; ++head) {
    const float* query = call.query + task.rows.begin * call.query_stride +
                         (bundle.first_head + head) * head_dim;
    auto* to = reinterpret_cast<BFloat16*>(bundle.query) + head * step;
    for (int64_t i = 0; i < memory.head_dim; i += kLanes) {
      const int64_t left = head < bundle.count ? head_dim - i : 0;
      const Float16x x = left > 0 ? load_some(query + i, left) * broadcast(call.scale) : zeros();
      store_rounded(to + i / step * step * Heads + i % step, x);
    }
  }
}

template <int Heads>
void start(const AttentionCall& call, const AttentionTask& task, const RowPairMemory& memory,
           const Bundle& bundle) {
  load_query<Heads>(call, task, memory, bundle);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int head = lane / kQuarter % Heads;
    const RunningSoftmax softmax = head < bundle.count
                                       ? first_softmax(call, bundle.first_head + head)
                                       : RunningSoftmax{};
    bundle.greatest[lane] = softmax.greatest;
    bundle.totals[lane] = lane == head * kQuarter ? softmax.total : 0;
  }
  const int64_t num_sums = Heads * memory.value_dim;
  for (int64_t i = 0; i < num_sums; i += kLanes) store(bundle.sums + i, zeros());
}

template <int Heads>
void compute_scores(const AttentionCall& call, const Bundle& bundle, int64_t tokens,
                    const TileOfHead<BFloat16>& part, float* scores) {
  const int64_t head_dim = call.cache.head_dim;
  for (int64_t token = 0; token < tokens; token += kTokens<Heads>) {
    for (int i = 0; i < kTokens<Heads>; ++i) prefetch(part.next_keys.at(token + i), head_dim);
    Float16x products[2][8];
    multiply_keys<Heads>(part.keys.from(token), head_dim, bundle.query, products);
    if (Heads == 1) {
      multiply_keys<Heads>(part.keys.from(token + 8), head_dim, bundle.query, products + 1);
    }
    const auto add_up = [](const Float16x* of) {
      return add_quarters(sum_quarters(of), sum_quarters(of + 4));
    };
    const Float16x first = add_up(products[0]);
    if constexpr (Heads == 2) {
      store(scores + token * Heads, first);
    } else if constexpr (Heads == 1) {
      store(scores + token, add_quarters(first, add_up(products[1])));
    } else {
      const Float16x second = add_up(products[1]);
      store(scores + token * Heads, {_mm512_shuffle_f32x4(first.v, second.v, 0x44)});
      store(scores + token * Heads + kLanes, {_mm512_shuffle_f32x4(first.v, second.v, 0xee)});
    }
  }
}

// Combine the lanes of each head, and leave the result in all of them.
template <int Heads, class Combine>
Float16x combined(Float16x x, const Combine& combine) {
  x = combine(x, swap_lanes<1>(x));
  x = combine(x, swap_lanes<2>(x));
  if (Heads < 4) x = combine(x, swap_lanes<8>(x));
  if (Heads < 2) x = combine(x, swap_lanes<4>(x));
  return x;
}

// One step of the running softmax: weights of the tile; the factor for what was summed before.
template <int Heads>
Float16x weigh(const AttentionCall& call, const RowPairMemory& memory, const Bundle& bundle,
               int64_t tokens) {
  float* scores = memory.scores;
  const int64_t filled = (tokens + kTokens<Heads> - 1) / kTokens<Heads> * kTokens<Heads>;
  const int64_t count = filled * Heads;
  if (call.soft_cap > 0) {
    const Float16x cap = broadcast(call.soft_cap);
    for (int64_t i = 0; i < count; i += kLanes) {
      store(scores + i, cap * hyperbolic_tangent(load(scores + i) / cap));
    }
  }
  for (int64_t token = tokens; token < filled; ++token) {
    for (int head = 0; head < Heads; ++head) {
      scores[(token / kQuarter * Heads + head) * kQuarter + token % kQuarter] = kUnseen;
    }
  }
  const Float16x before = load(bundle.greatest);
  Float16x most = before;
  for (int64_t i = 0; i < count; i += kLanes) most = maximum(load(scores + i), most);
  most = combined<Heads>(most, [](auto a, auto b) { return maximum(a, b); });
  const Float16x factor = exponential(before - most);
  Float16x total = load(bundle.totals) * factor;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float16x weight = weight_of(load(scores + i) - most);
    total = total + weight;
    store_rounded(memory.weights + i, weight);
  }
  store(bundle.greatest, most);
  store(bundle.totals, total);
  return factor;
}

template <int Heads>
void attend_tile(const AttentionCall& call, const RowPairMemory& memory, const Bundle& bundle,
                 int64_t tokens, const TileOfHead<BFloat16>& part) {
  compute_scores<Heads>(call, bundle, tokens, part, memory.scores);
  float factors[kLanes];
  store(factors, weigh<Heads>(call, memory, bundle, tokens));
  const int64_t value_dim = call.cache.value_dim;
  int64_t at = 0;
  for (; at + 2 * kNumbers <= value_dim; at += 2 * kNumbers) {
    add_numbers<Heads, 2>(memory, tokens, part, at, 2 * kNumbers, factors, bundle.sums + at);
  }
  for (; at < value_dim; at += kNumbers) {
    add_numbers<Heads, 1>(memory, tokens, part, at, value_dim - at, factors, bundle.sums + at);
  }
}

template <int Heads>
void store_bundle(const AttentionCall& call, const AttentionTask& task,
                  const RowPairMemory& memory, const Bundle& bundle) {
  const int64_t value_dim = call.cache.value_dim;
  float totals[kLanes];
  store(totals, combined<Heads>(load(bundle.totals), [](auto a, auto b) { return a + b; }));
  for (int64_t head = 0; head < bundle.count; ++head) {
    const Float16x share = broadcast(1.0f / totals[head * kQuarter]);
    float* out = call.out +
                 (task.rows.begin * call.num_heads + bundle.first_head + head) * value_dim;
    for (int64_t i = 0; i < value_dim; i += kNumbers) {
      Float16x numbers[2];
      in_order(bundle.sums + head * memory.value_dim + i, numbers);
      store_some(out + i, numbers[0] * share, value_dim - i);
      if (value_dim - i <= kLanes) continue;
      store_some(out + i + kLanes, numbers[1] * share, value_dim - i - kLanes);
    }
  }
}

}  // namespace

void attend_row_pairs(const AttentionCall& call, const AttentionTask& task,
                      const AttentionTask* following) {
  static thread_local Scratch scratch;
  const RowPairMemory memory(scratch, call, task);
  for_bundles(call, task, memory, [&](const Bundle& bundle, auto heads) {
    start<heads()>(call, task, memory, bundle);
  });
  for_tiles(call, task, following, [&](const TokenTile& tile, const TokenTile& next) {
    for_bundles(call, task, memory, [&](const Bundle& bundle, auto heads) {
      const TileOfHead<BFloat16> part(call, tile, next, bundle.kv_head);
      attend_tile<heads()>(call, memory, bundle, tile.tokens, part);
    });
  });
  for_bundles(call, task, memory, [&](const Bundle& bundle, auto heads) {
    store_bundle<heads()>(call, task, memory, bundle);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
