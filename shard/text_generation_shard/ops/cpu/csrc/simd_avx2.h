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
inline constexpr int kIntegerTileRows = 4;
// The same of the small products of attention, whose rows are not packed.
inline constexpr int kMatmulRows = 6;
inline constexpr int kMatmulPanels = 1;
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
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i biased = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_srli_epi32(biased, 16);
}
inline void store(BFloat16* p, Float16x x) {
  const __m256i packed = _mm256_packus_epi32(narrow_bits(x.low), narrow_bits(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11011000));
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

// Dot products of four bytes in each of sixteen lanes: weights, laid out by `layout.h`,
// with four signed activations that all lanes share.
template <int Bits>
struct Dot;

// Signed weights, widened to 16 bits: (b0 b2) and (b1 b3) of every lane, and so are the
// activations. Two products of 127 * 127 never leave 32 bits; bytes multiplied by `vpmaddubsw`
// would saturate in 16.
template <>
struct Dot<8> {
  // Stored byte = weight + offset.
  static constexpr int kOffset = 0;

  struct Quad {
    int16_t even[2], odd[2];
  };
  static Quad make_quad(const int8_t* x) { return {{x[0], x[2]}, {x[1], x[3]}}; }

  struct Weights {
    __m256i low, high;
  };
  static Weights load_weights(const uint8_t* p) { return {load_bytes(p), load_bytes(p + 32)}; }

  struct Sum {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
  };
  static __m256i add_half(__m256i sum, __m256i weights, __m256i even, __m256i odd) {
    const __m256i even_weights = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    const __m256i odd_weights = _mm256_srai_epi16(weights, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_weights, even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd_weights, odd));
  }
  template <int Index>
  static void add(Sum& sum, Weights weights, const Quad* x) {
    int even, odd;
    __builtin_memcpy(&even, x->even, 4);
    __builtin_memcpy(&odd, x->odd, 4);
    const __m256i evens = _mm256_set1_epi32(even), odds = _mm256_set1_epi32(odd);
    sum.low = add_half(sum.low, weights.low, evens, odds);
    sum.high = add_half(sum.high, weights.high, evens, odds);
  }
  static Float16x finish(Sum sum, int32_t correction) {
    const __m256i offset = _mm256_set1_epi32(correction);
    return {_mm256_cvtepi32_ps(_mm256_add_epi32(sum.low, offset)),
            _mm256_cvtepi32_ps(_mm256_add_epi32(sum.high, offset))};
  }
};

// Unsigned nibbles (weight + 8) times signed bytes, added up in 16 bits: a pair of products is at
// most 2 * 15 * 127 = 3810, and a group has 8 of them in each place: 30480, no saturation.
template <>
struct Dot<4> {
  static constexpr int kOffset = 8;

  using Quad = uint32_t;
  static Quad make_quad(const int8_t* x) {
    Quad quad;
    __builtin_memcpy(&quad, x, 4);
    return quad;
  }

  struct Weights {
    __m256i low, high;
  };
  static Weights load_weights(const uint8_t* p) { return {load_bytes(p), load_bytes(p + 32)}; }

  struct Sum {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
  };
  template <int Index>
  static __m256i nibbles(__m256i bytes) {
    if constexpr (Index == 1) bytes = _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f));
  }
  template <int Index>
  static void add(Sum& sum, Weights weights, const Quad* x) {
    const __m256i quad = _mm256_set1_epi32(static_cast<int>(*x));
    const __m256i low = _mm256_maddubs_epi16(nibbles<Index>(weights.low), quad);
    const __m256i high = _mm256_maddubs_epi16(nibbles<Index>(weights.high), quad);
    sum.low = _mm256_add_epi16(sum.low, low);
    sum.high = _mm256_add_epi16(sum.high, high);
  }
  static Float16x finish(Sum sum, int32_t correction) {
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi32(correction);
    const __m256i low = _mm256_add_epi32(_mm256_madd_epi16(sum.low, ones), offset);
    const __m256i high = _mm256_add_epi32(_mm256_madd_epi16(sum.high, ones), offset);
    return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
  }
};

// Sixteen floats, whole numbers within [-127, 127], to signed bytes; returns their sum.
inline int32_t store_bytes(int8_t* p, Float16x x) {
  const __m256i low = _mm256_cvtps_epi32(x.low), high = _mm256_cvtps_epi32(x.high);
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11011000);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) total += p[i];
  return total;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
