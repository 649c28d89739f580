// Dot products of bytes on AVX-512 with VNNI.
#pragma once

#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Rows of activations that one tile of registers computes against so many panels of outputs.
inline constexpr int kIntegerTileRows = 8;
inline constexpr int kIntegerTilePanels = 2;
inline constexpr int kIntegerUnrolledSteps = 1;

// Keep a sum in its register here: a compiler that reorders the sums of an unrolled loop runs out
// of registers.
inline __m512i settled(__m512i sum) {
  asm("" : "+v"(sum));
  return sum;
}

// Dot products of four bytes in each of sixteen lanes: weights, laid out by `layout_integer.h`,
// with four signed activations that all lanes share. VNNI multiplies unsigned by signed bytes and
// adds the four products to 32 bits without saturation, so weights have an offset added, and a sum
// starts at its correction, minus the offset times the sum of its activations.
struct SumOfDots {
  __m512i v;
};
inline SumOfDots add_dots(SumOfDots sum, __m512i weights, uint32_t quad) {
  const __m512i activations = _mm512_set1_epi32(static_cast<int>(quad));
  return {settled(_mm512_dpbusd_epi32(sum.v, weights, activations))};
}

template <int Bits>
struct DotWithOffset {
  // Stored byte or nibble = weight + offset.
  static constexpr int kOffset = Bits == 8 ? 128 : 8;

  using Quad = uint32_t;
  // Sixteen activations, whole numbers.
  static void store_quads(Quad* quads, Float16x x) { store_bytes(quads, x); }
  // Of activations with this sum.
  static int32_t correction(float sum) { return -kOffset * static_cast<int32_t>(sum); }

  using Sum = SumOfDots;
  static Sum start(int32_t correction) { return {_mm512_set1_epi32(correction)}; }
  static Float16x finish(Sum sum) { return {_mm512_cvtepi32_ps(sum.v)}; }
};

template <int Bits>
struct Dot;

template <>
struct Dot<8> : DotWithOffset<8> {
  // Whether the parts of a group are summed apart, to be multiplied by their factors.
  static constexpr bool kSumsParts = false;

  struct Factors {};
  static Factors load_factors(const int8_t*) { return {}; }

  using Weights = __m512i;
  static Weights load_weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
  template <int>
  static void add(Sum& sum, const Weights& weights, const Quad& x) {
    sum = add_dots(sum, weights, x);
  }
};

template <>
struct Dot<4> : DotWithOffset<4> {
  static constexpr bool kSumsParts = true;
  // Whether many rows are multiplied faster with int8.
  static constexpr bool kWidens = true;

  // In the lower words, the upper ones 0.
  struct Factors {
    __m512i v;
  };
  static Factors load_factors(const int8_t* p) {
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_and_si512(wide, _mm512_set1_epi32(0xffff))};
  }

  // Two quads, from 64 bytes of a panel.
  struct Weights {
    __m512i quads[2];
  };
  static Weights load_weights(const uint8_t* p) {
    const __m512i bytes = _mm512_loadu_si512(p), low = _mm512_set1_epi8(0x0f);
    return {{_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low)}};
  }
  template <int Index>
  static void add(Sum& sum, const Weights& weights, const Quad& x) {
    sum = add_dots(sum, weights.quads[Index], x);
  }
  // Add the sum of a part, which fits 16 bits (8 * 127 * 32), to that of its group.
  static void add_part(Sum& sum, Sum part, const Factors& factors) {
    sum.v = _mm512_dpwssd_epi32(sum.v, part.v, factors.v);
  }

  // Two quads as int8 stores them: factor * (nibble - 8) + 128, which is factor * nibble + offset,
  // for two bytes with one product of words.
  struct WideFactors {
    __m512i factor, offset;
  };
  static WideFactors load_wide_factors(const int8_t* p) {
    const __m512i wide = load_factors(p).v;
    const __m512i factor = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    const __m512i offset = _mm512_mullo_epi16(factor, _mm512_set1_epi16(-8 * 257));
    return {factor, _mm512_add_epi16(offset, _mm512_set1_epi16(static_cast<int16_t>(128 * 257)))};
  }
  static __m512i widened(const Weights& weights, const WideFactors& factors, int quad) {
    const __m512i products = _mm512_mullo_epi16(weights.quads[quad], factors.factor);
    return _mm512_add_epi16(products, factors.offset);
  }
  static void widen(const Weights& weights, const WideFactors& factors, int quad, uint8_t* out) {
    _mm512_storeu_si512(out, widened(weights, factors, quad));
  }
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
