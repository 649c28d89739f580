// Scores of a bundle's heads, and the sums of their values, by dot products of bfloat16 pairs.
#pragma once

#include "attention_row_bundles.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

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

}  // namespace cpu_operators::CPU_OPERATORS_ISA
