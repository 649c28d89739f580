// Sixteen float32 lanes, for the instruction set that this object file is compiled for.
//
// Every kernel is compiled once per instruction set, with CPU_OPERATORS_ISA naming the namespace;
// the kernels know sixteen lanes and nothing of registers.
#pragma once

#include "kernels.h"

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int kLanes = 16;
constexpr int64_t ceil_lanes(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// All sixteen lanes, or the first few.
inline Float16x load_some(const float* p, int count) {
  return count == kLanes ? load(p) : load_first(p, count);
}
inline void store_some(float* p, Float16x x, int count) {
  if (count == kLanes) {
    store(p, x);
  } else {
    store_first(p, x, count);
  }
}

// e^x, with a relative error below 2e-7: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its series. Not
// a number where x is not: of operands that are no numbers the second is kept.
inline Float16x exponential(Float16x x) {
  x = minimum(broadcast(88.0f), maximum(broadcast(-87.0f), x));
  const Float16x n = round_to_even(x * broadcast(1.44269504088896341f));
  Float16x r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Float16x series = broadcast(1.0f / 5040);
  for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    series = fma(series, r, broadcast(factor));
  }
  return scale_by_power(series, n);
}

// With an absolute error below 2e-7; for numbers only.
inline Float16x hyperbolic_tangent(Float16x x) {
  const Float16x one = broadcast(1.0f);
  return one - broadcast(2.0f) / (exponential(x + x) + one);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
