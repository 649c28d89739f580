// Pairs of numbers, rounded to bfloat16: what is multiplied with bfloat16 weights. For instruction
// sets on top of AVX-512 alone.
#pragma once

#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Two numbers whose products are added: the first in the lower half.
using Pair = uint32_t;

// Round 16 pairs to nearest, ties to even; from x[count] on they are zeros.
inline void round_pairs(const float* x, int64_t count, Pair* out) {
  const auto part = [&](int64_t first) {
    const int64_t left = count - first;
    return left >= kLanes ? load(x + first)
                          : load_first(x + first, static_cast<int>(left > 0 ? left : 0));
  };
  _mm512_storeu_si512(out,
                      reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(part(kLanes).v, part(0).v)));
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
