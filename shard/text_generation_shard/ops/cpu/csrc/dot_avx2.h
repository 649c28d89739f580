// Dot products of bytes on AVX2.
#pragma once

#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Rows of activations that one tile of registers computes against so many panels of outputs.
inline constexpr int kIntegerTileRows = 4;
inline constexpr int kIntegerTilePanels = 1;
inline constexpr int kIntegerUnrolledSteps = 8;

// Keep a sum in its register here: adding whole numbers in any order is the same, and a compiler that
// reorders the sums of an unrolled loop runs out of registers.
inline __m256i settled(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}

// Dot products of four bytes in each of sixteen lanes: weights, laid out by `layout_integer.h`,
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
  // Whether the parts of a group are summed apart, to be multiplied by their factors.
  static constexpr bool kSumsParts = false;

  struct Quad {
    int16_t even[2], odd[2];
  };
  // Sixteen activations, whole numbers.
  static void store_quads(Quad* quads, Float16x x) {
    constexpr int even_first = 0b11011000;
    __m128i bytes;
    store_bytes(&bytes, x);
    __m256i words = _mm256_cvtepi8_epi16(bytes);
    words = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, even_first), even_first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(quads), words);
  }
  // Of activations with this sum.
  static int32_t correction(float) { return 0; }

  struct Factors {};
  static Factors load_factors(const int8_t*) { return {}; }

  struct Weights {
    __m256i low_even, low_odd, high_even, high_odd;
  };
  static __m256i even_words(__m256i bytes) {
    return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
  }
  static Weights load_weights(const uint8_t* p) {
    const __m256i low = load_bytes(p), high = load_bytes(p + 32);
    return {even_words(low), _mm256_srai_epi16(low, 8), even_words(high),
            _mm256_srai_epi16(high, 8)};
  }

  struct Sum {
    __m256i low, high;
  };
  static Sum start(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  template <int Index>
  static void add(Sum& sum, const Weights& weights, const Quad& x) {
    int even, odd;
    __builtin_memcpy(&even, x.even, 4);
    __builtin_memcpy(&odd, x.odd, 4);
    const __m256i evens = _mm256_set1_epi32(even), odds = _mm256_set1_epi32(odd);
    const __m256i low_even = _mm256_madd_epi16(weights.low_even, evens);
    const __m256i low_odd = _mm256_madd_epi16(weights.low_odd, odds);
    sum.low = settled(_mm256_add_epi32(sum.low, _mm256_add_epi32(low_even, low_odd)));
    const __m256i high_even = _mm256_madd_epi16(weights.high_even, evens);
    const __m256i high_odd = _mm256_madd_epi16(weights.high_odd, odds);
    sum.high = settled(_mm256_add_epi32(sum.high, _mm256_add_epi32(high_even, high_odd)));
  }
  static Float16x finish(Sum sum) {
    return {_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)};
  }
};

// Unsigned nibbles (weight + 8) times signed bytes: a pair of products is at most 2 * 15 * 127 =
// 3810 and does not saturate. A part adds them up in 16 bits, in two places of each lane; the first
// one starts at the correction, minus 8 times the sum of the part's activations. Either place ends
// within 8 * 127 * 32 = 32512 of zero, so what it wraps through on its way does not matter. The
// places, times the part's factor, are added in 32 bits.
template <>
struct Dot<4> {
  static constexpr int kOffset = 8;
  static constexpr bool kSumsParts = true;
  // Whether many rows are multiplied faster with int8.
  static constexpr bool kWidens = false;

  using Quad = uint32_t;
  static void store_quads(Quad* quads, Float16x x) { store_bytes(quads, x); }
  static int32_t correction(float sum) {
    return static_cast<uint16_t>(-8 * static_cast<int32_t>(sum));
  }

  struct Factors {
    __m256i low, high;
  };
  static __m256i twice(__m256i wide) {
    return _mm256_blend_epi16(wide, _mm256_slli_epi32(wide, 16), 0b10101010);
  }
  static Factors load_factors(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {twice(_mm256_cvtepi8_epi32(bytes)),
            twice(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }

  struct Weights {
    __m256i low[2], high[2];
  };
  static Weights load_weights(const uint8_t* p) {
    const __m256i low = load_bytes(p), high = load_bytes(p + 32), mask = _mm256_set1_epi8(0x0f);
    return {{_mm256_and_si256(low, mask), _mm256_and_si256(_mm256_srli_epi16(low, 4), mask)},
            {_mm256_and_si256(high, mask), _mm256_and_si256(_mm256_srli_epi16(high, 4), mask)}};
  }

  struct Sum {
    __m256i low, high;
  };
  static Sum start(int32_t correction) {
    return {_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)};
  }
  template <int Index>
  static void add(Sum& sum, const Weights& weights, const Quad& x) {
    const __m256i quad = _mm256_set1_epi32(static_cast<int>(x));
    const __m256i low = _mm256_maddubs_epi16(weights.low[Index], quad);
    const __m256i high = _mm256_maddubs_epi16(weights.high[Index], quad);
    sum.low = settled(_mm256_add_epi16(sum.low, low));
    sum.high = settled(_mm256_add_epi16(sum.high, high));
  }
  // Add the sum of a part to that of its group.
  static void add_part(Sum& sum, Sum part, const Factors& factors) {
    sum.low = _mm256_add_epi32(sum.low, _mm256_madd_epi16(part.low, factors.low));
    sum.high = _mm256_add_epi32(sum.high, _mm256_madd_epi16(part.high, factors.high));
  }
  static Float16x finish(Sum sum) {
    return {_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)};
  }
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
