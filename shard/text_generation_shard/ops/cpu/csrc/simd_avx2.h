// Sixteen lanes on AVX2 with FMA and F16C: two registers each. The same interface as simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace cpu_operators::CPU_OPERATORS_ISA {

struct Float16x {
  __m256 low, high;
};

// Rows of activations that one tile of registers computes against one panel of outputs.
inline constexpr int kFloatTileRows = 6;
// The same of the small products of attention, whose rows are not packed.
inline constexpr int kMatmulRows = 6;
inline constexpr int kMatmulPanels = 1;
// Accumulators of attention of one row: registers that are left beside keys, values and queries.
inline constexpr int kRowSums = 4;
inline constexpr int kTilePanels = 1;

inline Float16x zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Float16x broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Float16x load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Float16x x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}

// The first `count` lanes, the others 0.
inline Float16x load_first(const float* p, int count) {
  alignas(32) float lanes[16] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_first(float* p, Float16x x, int count) {
  alignas(32) float lanes[16];
  store(lanes, x);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

inline Float16x operator+(Float16x a, Float16x b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Float16x operator-(Float16x a, Float16x b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Float16x operator*(Float16x a, Float16x b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Float16x operator/(Float16x a, Float16x b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// a * b + c
inline Float16x fma(Float16x a, Float16x b, Float16x c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Float16x maximum(Float16x a, Float16x b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Float16x minimum(Float16x a, Float16x b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Float16x absolute(Float16x a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
// Lanes i and i + Distance in each other's place, where bit Distance of i is not set.
template <int Distance>
inline Float16x swap_lanes(Float16x a) {
  if constexpr (Distance == 8) {
    return {a.high, a.low};
  } else if constexpr (Distance == 4) {
    return {_mm256_permute2f128_ps(a.low, a.low, 1), _mm256_permute2f128_ps(a.high, a.high, 1)};
  } else {
    constexpr int order = Distance == 2 ? 0x4e : 0xb1;
    return {_mm256_permute_ps(a.low, order), _mm256_permute_ps(a.high, order)};
  }
}
inline Float16x round_to_even(Float16x a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
inline float sum(Float16x a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(Float16x a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// Lane i: the sum of the lanes of v[i].
inline __m256 sum_each_of_eight(const Float16x* v) {
  const auto pair = [v](int i) {
    return _mm256_hadd_ps(_mm256_add_ps(v[i].low, v[i].high),
                          _mm256_add_ps(v[i + 1].low, v[i + 1].high));
  };
  const __m256 first = _mm256_hadd_ps(pair(0), pair(2)), second = _mm256_hadd_ps(pair(4), pair(6));
  return _mm256_add_ps(_mm256_permute2f128_ps(first, second, 0x20),
                       _mm256_permute2f128_ps(first, second, 0x31));
}
inline Float16x sum_each(const Float16x (&v)[16]) {
  return {sum_each_of_eight(v), sum_each_of_eight(v + 8)};
}

// a * 2^n for whole n in [-126, 127].
inline __m256 scale_by_power(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Float16x scale_by_power(Float16x a, Float16x n) {
  return {scale_by_power(a.low, n.low), scale_by_power(a.high, n.high)};
}

// Narrow formats in memory.
inline __m256 widen_bfloat16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Float16x load(const BFloat16* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {widen_bfloat16(_mm_loadu_si128(halves)), widen_bfloat16(_mm_loadu_si128(halves + 1))};
}
inline __m256i narrow_bits(__m256 x) {  // upper half of every lane, to nearest, ties to even
  // What is no number may have any low bits: rounded up, it could become one.
  x = _mm256_blendv_ps(x, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i biased = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_srli_epi32(biased, 16);
}
inline void store(BFloat16* p, Float16x x) {
  const __m256i packed = _mm256_packus_epi32(narrow_bits(x.low), narrow_bits(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11011000));
}
inline Float16x load(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline Float16x load(const Half* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline void store(Half* p, Float16x x) {
  auto* halves = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}

// Sixteen pairs of bfloat16: the first of every pair, or the second.
struct BFloat16Pairs {
  __m256i low, high;
};
inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline BFloat16Pairs load_pairs(const BFloat16* p) { return {load_bytes(p), load_bytes(p + 16)}; }
inline Float16x firsts(BFloat16Pairs pairs) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.low, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(pairs.high, 16))};
}
inline Float16x seconds(BFloat16Pairs pairs) {
  const __m256i upper = _mm256_set1_epi32(-0x10000);
  return {_mm256_castsi256_ps(_mm256_and_si256(pairs.low, upper)),
          _mm256_castsi256_ps(_mm256_and_si256(pairs.high, upper))};
}

// Sixteen floats, whole numbers within [-127, 127], to signed bytes.
inline void store_bytes(void* p, Float16x x) {
  const __m256i low = _mm256_cvtps_epi32(x.low), high = _mm256_cvtps_epi32(x.high);
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11011000);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(static_cast<__m128i*>(p), bytes);
}

// Sixteen floats, whole numbers, to words.
inline void store_words(int16_t* p, Float16x x) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permute4x64_epi64(words, 0b11011000));
}

// Pairs of words, and 32-bit sums of their products, in sixteen lanes.
struct WordPairs {
  __m256i low, high;
};
struct PairSums {
  __m256i low, high;
};
inline PairSums no_pairs() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline WordPairs load_words(const int16_t* p) { return {load_bytes(p), load_bytes(p + 16)}; }
inline WordPairs load_words(const int8_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(halves)),
          _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1))};
}
// In every lane the two words that stand there.
inline WordPairs broadcast_pair(const int16_t* p) {
  int both;
  __builtin_memcpy(&both, p, sizeof(both));
  return {_mm256_set1_epi32(both), _mm256_set1_epi32(both)};
}
inline PairSums add_pairs(PairSums sum, WordPairs a, WordPairs b) {
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(a.low, b.low)),
          _mm256_add_epi32(sum.high, _mm256_madd_epi16(a.high, b.high))};
}
inline Float16x to_floats(PairSums sum) {
  return {_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)};
}

// Lane i: the sum of the lanes of v[i].
inline __m256i sum_each_of_eight(const PairSums* v) {
  const auto pair = [v](int i) {
    return _mm256_hadd_epi32(_mm256_add_epi32(v[i].low, v[i].high),
                             _mm256_add_epi32(v[i + 1].low, v[i + 1].high));
  };
  const __m256i first = _mm256_hadd_epi32(pair(0), pair(2));
  const __m256i second = _mm256_hadd_epi32(pair(4), pair(6));
  return _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                          _mm256_permute2x128_si256(first, second, 0x31));
}
inline Float16x sum_each(const PairSums (&v)[16]) {
  return to_floats({sum_each_of_eight(v), sum_each_of_eight(v + 8)});
}

// Columns of two rows of bytes at one time: pairs of both rows, and where their sums belong.
inline constexpr int kPairColumns = 16;
inline constexpr int kPairChunks = 1;  // for which there are registers
struct ColumnPairs {
  WordPairs part[1];
};
inline ColumnPairs pair_columns(const int8_t* first, const int8_t* second) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second));
  return {{{_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
            _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))}}};
}
inline void in_order(const PairSums (&sums)[1], Float16x (&columns)[1]) {
  columns[0] = to_floats(sums[0]);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
