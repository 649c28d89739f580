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
inline constexpr int kIntegerTileRows = 6;
// The same of the small products of attention, whose rows are not packed.
inline constexpr int kMatmulRows = 6;
inline constexpr int kMatmulPanels = 4;
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
inline Float16x round_to_even(Float16x a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline float sum(Float16x a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Float16x a) { return _mm512_reduce_max_ps(a.v); }

// a * 2^n for whole n in [-126, 127].
inline Float16x scale_by_power(Float16x a, Float16x n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Narrow formats in memory.
inline Float16x load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline void store(BFloat16* p, Float16x x) {  // round to nearest, ties to even
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i biased = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(biased, 16)));
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

// Dot products of four bytes in each of sixteen lanes: weights, laid out by `layout.h`,
// with four signed activations that all lanes share. VNNI multiplies unsigned by signed bytes and
// adds the four products to 32 bits without saturation. So int8 weights are stored with 128 added;
// int4 weights are stored with 8 added. `correction` is minus that offset times the sum of the
// activations of the group.
template <int Bits>
struct Dot {
  // Stored byte or nibble = weight + offset.
  static constexpr int kOffset = Bits == 8 ? 128 : 8;

  using Quad = uint32_t;
  static Quad make_quad(const int8_t* x) {
    Quad quad;
    __builtin_memcpy(&quad, x, 4);
    return quad;
  }

  // The weights of `Bits == 8 ? 1 : 2` quads, from 64 bytes of a panel.
  struct Weights {
    __m512i v;
  };
  static Weights load_weights(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }

  struct Sum {
    __m512i v = _mm512_setzero_si512();
  };
  // Add the products with quad `Index` of the 64 bytes.
  template <int Index>
  static void add(Sum& sum, Weights weights, const Quad* x) {
    __m512i bytes = weights.v;
    if constexpr (Bits == 4) {
      if constexpr (Index == 1) bytes = _mm512_srli_epi16(bytes, 4);
      bytes = _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
    }
    sum.v = _mm512_dpbusd_epi32(sum.v, bytes, _mm512_set1_epi32(static_cast<int>(*x)));
  }
  static Float16x finish(Sum sum, int32_t correction) {
    return {_mm512_cvtepi32_ps(_mm512_add_epi32(sum.v, _mm512_set1_epi32(correction)))};
  }
};

// Sixteen floats, whole numbers within [-127, 127], to signed bytes; returns their sum.
inline int32_t store_bytes(int8_t* p, Float16x x) {
  const __m512i whole = _mm512_cvtps_epi32(x.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
