// Pairs of numbers in bfloat16, and the processor's dot products of them: what attention needs. For
// one instruction set alone, on top of AVX-512.
#pragma once

#include "round_pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Panels of sixteen columns whose products are computed together with so many rows.
inline constexpr int kPanels = 3;
inline constexpr int kLefts = 8;

// Row i of sixteen becomes lane i.
inline void transpose(__m512i (&v)[kLanes]) {
  __m512i twos[kLanes], fours[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    twos[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    twos[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int half = 0; half < 2; ++half) {
      fours[i + 2 * half] = _mm512_unpacklo_epi64(twos[i + half], twos[i + half + 2]);
      fours[i + 2 * half + 1] = _mm512_unpackhi_epi64(twos[i + half], twos[i + half + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xee);
    v[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    v[i + 4] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[i + 8] = _mm512_shuffle_i32x4(b, d, 0x88);
    v[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Sixteen pairs, rounded to nearest, ties to even.
inline __m512i interleaved(Float16x low, Float16x high) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.v, low.v));
  const __m512i order =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

// e^x for x <= 0, with a relative error below 4e-6: 2^n by its series, what is smallest as zero.
inline Float16x weight_of(Float16x x) {
  const __m512 power = _mm512_mul_ps(x.v, _mm512_set1_ps(1.44269504088896341f));
  const __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Float16x part{_mm512_sub_ps(power, whole)};
  Float16x series = broadcast(9.5701e-3f);
  for (const float factor : {5.591786e-2f, 2.4024745e-1f, 6.9312181e-1f, 9.9999926e-1f}) {
    series = fma(series, part, broadcast(factor));
  }
  return {_mm512_scalef_ps(series.v, whole)};
}

// out [panels][kLefts][16] = out * factors + left [kLefts][pairs] x right [panels][pairs][16].
struct Product {
  const Pair* left;
  int64_t left_stride, left_step;  // from one to the next; from one pair to the next
  const Pair* right;
  int64_t right_stride;  // from one panel to the next, as those that follow
  int64_t pairs;
  float* out;
  int64_t out_stride;
  const float* factors;  // [panels][16], or null: out begins at zero
};

template <int Panels>
void multiply(const Product& product) {
  Float16x sums[kLefts][Panels];
  for (int left = 0; left < kLefts; ++left) {
    for (int panel = 0; panel < Panels; ++panel) {
      const float* out = product.out + panel * product.out_stride + left * kLanes;
      sums[left][panel] = product.factors == nullptr
                              ? zeros()
                              : load(out) * load(product.factors + panel * kLanes);
    }
  }
  const Pair *left_pairs = product.left, *right_pairs = product.right;
  for (int64_t pair = 0; pair < product.pairs; ++pair) {
    __m512bh right[Panels];
    for (int panel = 0; panel < Panels; ++panel) {
      right[panel] = reinterpret_cast<__m512bh>(
          _mm512_loadu_si512(right_pairs + panel * product.right_stride));
    }
#pragma GCC unroll 8
    for (int left = 0; left < kLefts; ++left) {
      const auto spread = reinterpret_cast<__m512bh>(
          _mm512_set1_epi32(static_cast<int>(left_pairs[left * product.left_stride])));
#pragma GCC unroll 4
      for (int panel = 0; panel < Panels; ++panel) {
        sums[left][panel] = {_mm512_dpbf16_ps(sums[left][panel].v, right[panel], spread)};
      }
    }
    left_pairs += product.left_step;
    right_pairs += kLanes;
  }
  for (int left = 0; left < kLefts; ++left) {
    for (int panel = 0; panel < Panels; ++panel) {
      store(product.out + panel * product.out_stride + left * kLanes, sums[left][panel]);
    }
  }
}

inline void multiply(const Product& product, int64_t panels) {
  static_assert(kPanels == 3);
  if (panels == 3) return multiply<3>(product);
  if (panels == 2) return multiply<2>(product);
  multiply<1>(product);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
