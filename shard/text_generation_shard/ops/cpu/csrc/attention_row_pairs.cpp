// Attention of one row over keys and values in bfloat16, by dot products of bfloat16 pairs: queries
// and weights are rounded to bfloat16, as in attention of a chunk; sums are float32.
//
// For query heads that share KV heads; with one for each, memory is what a row waits for.
//
// Query heads that share a KV head, one, two or four of them, form a bundle: a key or value that was
// read serves all of them. A register of scores or weights holds four tokens in each quarter, of the
// bundle's heads in turn, [tokens / 4][heads][4], so that the heads' softmax runs side by side.
//
// Compiled for one instruction set alone, on top of AVX-512.
#include <type_traits>

#include "attention_row.h"
#include "pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int kQuarter = kLanes / 4;
// Numbers in a register of pairs, which is also what widths are filled up to.
constexpr int64_t kNumbers = 2 * kLanes;
// Behind the tokens of a tile; its weight is 0.
constexpr float kUnseen = -1.0e38f;

// Heads whose queries stand side by side in a register, each for so many numbers of head_dim.
template <int Heads>
inline constexpr int kAbreast = Heads < 2 ? 1 : 2;
template <int Heads>
inline constexpr int64_t kStep = kNumbers / kAbreast<Heads>;
// Tokens whose scores are computed together: sixteen lanes of each of them become one.
template <int Heads>
inline constexpr int kTokens = kLanes / kAbreast<Heads>;

struct Bundle {
  int64_t first_head, count, kv_head;  // query heads; three are computed as four
  Pair* query;       // [head_dim / kStep][heads / kAbreast][16]
  float* sums;       // [heads][value_dim], 32 of them in the order of `pair_tokens`
  float* greatest;   // [16], as scores
  float* totals;     // [16], to be added up for each head
};

// Memory of one task.
struct RowPairMemory {
  int64_t head_dim, value_dim;  // filled up
  float* scores;                // of a bundle and tile
  BFloat16* weights;
  float* bundles;

  RowPairMemory(Scratch& scratch, const AttentionCall& call, const AttentionTask& task)
      : head_dim(ceil_to(call.cache.head_dim)), value_dim(ceil_to(call.cache.value_dim)) {
    constexpr int64_t tile = kHeadsAtOnce * kTileTokens;
    const int64_t most_bundles = task.heads.end - task.heads.begin;
    scores = static_cast<float*>(scratch.reserve((tile * 3 / 2 + most_bundles * floats()) * 4));
    weights = reinterpret_cast<BFloat16*>(scores + tile);
    bundles = scores + tile * 3 / 2;
  }

  static int64_t ceil_to(int64_t size) { return (size + kNumbers - 1) / kNumbers * kNumbers; }

  int64_t floats() const { return kHeadsAtOnce * (head_dim / 2 + value_dim) + 2 * kLanes; }

  Bundle bundle(int64_t index, Range heads, int64_t kv_head) const {
    float* query = bundles + index * floats();
    float* sums = query + kHeadsAtOnce * head_dim / 2;
    float* greatest = sums + kHeadsAtOnce * value_dim;
    return {heads.begin, heads.end - heads.begin,       kv_head, reinterpret_cast<Pair*>(query),
            sums,        greatest, greatest + kLanes};
  }
};

// Call `body(bundle, heads)`, heads known to the compiler, for the bundles of a task.
template <class Body>
void for_bundles(const AttentionCall& call, const AttentionTask& task, const RowPairMemory& memory,
                 const Body& body) {
  const int64_t group = group_size(call);
  int64_t index = 0;
  for (int64_t head = task.heads.begin, stop; head < task.heads.end; head = stop) {
    const int64_t kv_head = kv_head_of(call, head);
    stop = (kv_head + 1) * group < task.heads.end ? (kv_head + 1) * group : task.heads.end;
    if (stop > head + kHeadsAtOnce) stop = head + kHeadsAtOnce;
    const Bundle bundle = memory.bundle(index++, {head, stop}, kv_head);
    if (bundle.count > 2) {
      body(bundle, std::integral_constant<int, 4>{});
    } else if (bundle.count == 2) {
      body(bundle, std::integral_constant<int, 2>{});
    } else {
      body(bundle, std::integral_constant<int, 1>{});
    }
  }
}

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

// The first `count` of some numbers, 0 behind them.
inline __m512i load_numbers(const BFloat16* p, int64_t count) {
  const __mmask32 mask = count >= kNumbers ? ~0u : (1u << count) - 1;
  return _mm512_maskz_loadu_epi16(mask, p);
}

// Numbers of a key, for each of the heads abreast.
template <int Abreast>
[[gnu::always_inline]] inline __m512bh load_key(const BFloat16* p) {
  if constexpr (Abreast == 1) return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<__m512bh>(_mm512_broadcast_i64x4(half));
}
template <int Abreast>
[[gnu::always_inline]] inline __m512bh load_key(const BFloat16* p, int64_t count) {
  const __m512i first = load_numbers(p, count);
  if constexpr (Abreast == 1) return reinterpret_cast<__m512bh>(first);
  return reinterpret_cast<__m512bh>(_mm512_broadcast_i64x4(_mm512_castsi512_si256(first)));
}

inline Float16x dot(Float16x sum, __m512bh a, __m512bh b) {
  return {_mm512_dpbf16_ps(sum.v, a, b)};
}

// Lane i of every quarter: the sum of that quarter of v[i].
inline Float16x sum_quarters(const Float16x* v) {
  const auto add = [](Float16x a, Float16x b) {
    return _mm512_castps_pd(
        _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v)));
  };
  const __m512d first = add(v[0], v[1]), second = add(v[2], v[3]);
  return {_mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)))};
}
// Sums of two quarters that lie side by side: those of a, and those of b.
inline Float16x add_quarters(Float16x a, Float16x b) {
  return {_mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x88),
                        _mm512_shuffle_f32x4(a.v, b.v, 0xdd))};
}

// Scores of eight tokens: products[i][token], of the heads that stand abreast in registers i of the
// query, in lanes that are to be added up.
template <int Heads>
[[gnu::always_inline]] inline void multiply_keys(TileRows<BFloat16> keys, int64_t head_dim,
                                                 const Pair* query, Float16x (*products)[8]) {
  constexpr int abreast = kAbreast<Heads>, registers = Heads / abreast;
  Float16x sums[registers][8];
#pragma GCC unroll 2
  for (int i = 0; i < registers; ++i) {
#pragma GCC unroll 8
    for (int token = 0; token < 8; ++token) sums[i][token] = zeros();
  }
  const auto add = [&](const auto& load) [[gnu::always_inline]] {
    __m512bh some[registers];
#pragma GCC unroll 2
    for (int i = 0; i < registers; ++i) {
      some[i] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(query + i * kLanes));
    }
#pragma GCC unroll 8
    for (int token = 0; token < 8; ++token) {
      const __m512bh key = load(keys.at(token));
#pragma GCC unroll 2
      for (int i = 0; i < registers; ++i) sums[i][token] = dot(sums[i][token], key, some[i]);
    }
    query += registers * kLanes;
  };
  int64_t at = 0;
  for (; at + kStep<Heads> <= head_dim; at += kStep<Heads>) {
    add([&](const BFloat16* key) { return load_key<abreast>(key + at); });
  }
  if (at < head_dim) {
    add([&](const BFloat16* key) { return load_key<abreast>(key + at, head_dim - at); });
  }
#pragma GCC unroll 2
  for (int i = 0; i < registers; ++i) {
#pragma GCC unroll 8
    for (int token = 0; token < 8; ++token) products[i][token] = sums[i][token];
  }
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

// Numbers of two values in pairs: of the first quarter the first half of the quarters, and the other.
struct TokenPairs {
  __m512bh part[2];
};
[[gnu::always_inline]] inline TokenPairs pair_tokens(__m512i first, __m512i second) {
  return {{reinterpret_cast<__m512bh>(_mm512_unpacklo_epi16(first, second)),
           reinterpret_cast<__m512bh>(_mm512_unpackhi_epi16(first, second))}};
}
// The order of the numbers again.
inline void in_order(const float* sums, Float16x (&numbers)[2]) {
  const __m512i low = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const __m512 first = load(sums).v, second = load(sums + kLanes).v;
  numbers[0] = {_mm512_permutex2var_ps(first, low, second)};
  numbers[1] = {_mm512_permutex2var_ps(first, high, second)};
}

// Some numbers of all heads' sums, `count` of which there are, or as many as chunks have:
// sums[head] = sums[head] * factors[head] + sum over tokens of weight * value.
template <int Heads, int Chunks>
[[gnu::always_inline]] inline void add_numbers(const RowPairMemory& memory, int64_t tokens,
                                               const TileOfHead<BFloat16>& part, int64_t at,
                                               int64_t count, const float* factors, float* sums) {
  constexpr int parts = 2 * Chunks;
  Float16x totals[Heads][parts];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    const Float16x factor = broadcast(factors[head * kQuarter]);
#pragma GCC unroll 4
    for (int i = 0; i < parts; ++i) {
      totals[head][i] = load(sums + head * memory.value_dim + i * kLanes) * factor;
    }
  }
  const auto read = [&](int64_t token, int chunk) [[gnu::always_inline]] {
    const BFloat16* value = part.values.at(token) + at + chunk * kNumbers;
    return Chunks > 1 ? _mm512_loadu_si512(value) : load_numbers(value, count);
  };
  for (int64_t token = 0; token < tokens; token += 2) {
    prefetch(part.next_values.at(token) + at, Chunks * kNumbers);
    prefetch(part.next_values.at(token + 1) + at, Chunks * kNumbers);
    TokenPairs pairs[Chunks];
#pragma GCC unroll 2
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      pairs[chunk] = pair_tokens(read(token, chunk), read(token + 1, chunk));
    }
    const BFloat16* weights =
        memory.weights + token / kQuarter * Heads * kQuarter + token % kQuarter;
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      int both;
      __builtin_memcpy(&both, weights + head * kQuarter, sizeof(both));
      const auto weight = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
      for (int i = 0; i < parts; ++i) {
        totals[head][i] = dot(totals[head][i], pairs[i / 2].part[i % 2], weight);
      }
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
#pragma GCC unroll 4
    for (int i = 0; i < parts; ++i) {
      store(sums + head * memory.value_dim + i * kLanes, totals[head][i]);
    }
  }
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
