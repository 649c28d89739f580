// Sixteen lanes on AVX-512 with VNNI: one register each. The same interface as simd_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace cpu_operators::CPU_OPERATORS_ISA {

struct Float16x {
  __m512 v;
};

// Rows of activations that one tile of registers computes against two panels of outputs.
inline constexpr int kFloatTileRows = 12;
// The same of the small products of attention, whose rows are not packed.
inline constexpr int kMatmulRows = 6;
inline constexpr int kMatmulPanels = 4;
// Accumulators of attention of one row: registers that are left beside keys, values and queries.
inline constexpr int kRowSums = 16;
inline constexpr int kTilePanels = 2;

inline Float16x zeros() { return {_mm512_setzero_ps()}; }
inline Float16x broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Float16x load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Float16x x) { _mm512_storeu_ps(p, x.v); }

// The first `count` lanes, the others 0.
inline Float16x load_first(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p)};
}
inline void store_first(float* p, Float16x x, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), x.v);
}

inline Float16x operator+(Float16x a, Float16x b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Float16x operator-(Float16x a, Float16x b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Float16x operator*(Float16x a, Float16x b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Float16x operator/(Float16x a, Float16x b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c
inline Float16x fma(Float16x a, Float16x b, Float16x c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Float16x maximum(Float16x a, Float16x b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Float16x minimum(Float16x a, Float16x b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Float16x absolute(Float16x a) { return {_mm512_abs_ps(a.v)}; }
// Lanes i and i + Distance in each other's place, where bit Distance of i is not set.
template <int Distance>
inline Float16x swap_lanes(Float16x a) {
  if constexpr (Distance >= 4) {
    return {_mm512_shuffle_f32x4(a.v, a.v, Distance == 8 ? 0x4e : 0xb1)};
  } else {
    return {_mm512_permute_ps(a.v, Distance == 2 ? 0x4e : 0xb1)};
  }
}
inline Float16x round_to_even(Float16x a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline float sum(Float16x a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Float16x a) { return _mm512_reduce_max_ps(a.v); }

// Lane i: the sum of the lanes of v[i].
inline Float16x sum_each(const Float16x (&v)[16]) {
  __m512 fours[4];  // in every quarter of a register: parts of the sums of four
  for (int i = 0; i < 4; ++i) {
    const Float16x* four = v + 4 * i;
    const __m512 first = _mm512_add_ps(_mm512_unpacklo_ps(four[0].v, four[1].v),
                                       _mm512_unpackhi_ps(four[0].v, four[1].v));
    const __m512 second = _mm512_add_ps(_mm512_unpacklo_ps(four[2].v, four[3].v),
                                        _mm512_unpackhi_ps(four[2].v, four[3].v));
    const __m512d a = _mm512_castps_pd(first), b = _mm512_castps_pd(second);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const auto add_quarters = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return {add_quarters(add_quarters(fours[0], fours[1]), add_quarters(fours[2], fours[3]))};
}

// a * 2^n for whole n in [-126, 127].
inline Float16x scale_by_power(Float16x a, Float16x n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Narrow formats in memory.
inline Float16x load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline void store(BFloat16* p, Float16x x) {  // round to nearest, ties to even
  // What is no number may have any low bits: rounded up, it could become one.
  const __mmask16 is_none = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  x.v = _mm512_mask_mov_ps(x.v, is_none, _mm512_set1_ps(__builtin_nanf("")));
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i biased = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(biased, 16)));
}
inline Float16x load(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline Float16x load(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store(Half* p, Float16x x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Sixteen pairs of bfloat16: the first of every pair, or the second.
struct BFloat16Pairs {
  __m512i v;
};
inline BFloat16Pairs load_pairs(const BFloat16* p) { return {_mm512_loadu_si512(p)}; }
inline Float16x firsts(BFloat16Pairs pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs.v, 16))};
}
inline Float16x seconds(BFloat16Pairs pairs) {
  return {_mm512_castsi512_ps(_mm512_and_si512(pairs.v, _mm512_set1_epi32(-0x10000)))};
}

// Sixteen floats, whole numbers within [-127, 127], to signed bytes.
inline void store_bytes(void* p, Float16x x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

// Sixteen floats, whole numbers, to words.
inline void store_words(int16_t* p, Float16x x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x.v)));
}

// Pairs of words, and 32-bit sums of their products, in sixteen lanes.
struct WordPairs {
  __m512i v;
};
struct PairSums {
  __m512i v;
};
inline PairSums no_pairs() { return {_mm512_setzero_si512()}; }
inline WordPairs load_words(const int16_t* p) { return {_mm512_loadu_si512(p)}; }
inline WordPairs load_words(const int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// In every lane the two words that stand there.
inline WordPairs broadcast_pair(const int16_t* p) {
  int both;
  __builtin_memcpy(&both, p, sizeof(both));
  return {_mm512_set1_epi32(both)};
}
inline PairSums add_pairs(PairSums sum, WordPairs a, WordPairs b) {
  return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
}
inline Float16x to_floats(PairSums sum) { return {_mm512_cvtepi32_ps(sum.v)}; }

// Lane i: the sum of the lanes of v[i].
inline Float16x sum_each(const PairSums (&v)[16]) {
  __m512i fours[4];  // as of floats
  for (int i = 0; i < 4; ++i) {
    const PairSums* four = v + 4 * i;
    const __m512i first = _mm512_add_epi32(_mm512_unpacklo_epi32(four[0].v, four[1].v),
                                           _mm512_unpackhi_epi32(four[0].v, four[1].v));
    const __m512i second = _mm512_add_epi32(_mm512_unpacklo_epi32(four[2].v, four[3].v),
                                            _mm512_unpackhi_epi32(four[2].v, four[3].v));
    fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second),
                                _mm512_unpackhi_epi64(first, second));
  }
  const auto add_quarters = [](__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
  };
  return to_floats(
      {add_quarters(add_quarters(fours[0], fours[1]), add_quarters(fours[2], fours[3]))});
}

// Columns of two rows of bytes at one time: pairs of both rows, and where their sums belong. The
// bytes are paired within halves of a register: columns 0 to 7 and 16 to 23, and the others.
inline constexpr int kPairColumns = 32;
inline constexpr int kPairChunks = 2;  // for which there are registers
struct ColumnPairs {
  WordPairs part[2];
};
inline ColumnPairs pair_columns(const int8_t* first, const int8_t* second) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
  return {{{_mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(a, b))},
           {_mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(a, b))}}};
}
inline void in_order(const PairSums (&sums)[2], Float16x (&columns)[2]) {
  const __m512 a = to_floats(sums[0]).v, b = to_floats(sums[1]).v;
  columns[0] = {_mm512_shuffle_f32x4(a, b, 0x44)};
  columns[1] = {_mm512_shuffle_f32x4(a, b, 0xee)};
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
