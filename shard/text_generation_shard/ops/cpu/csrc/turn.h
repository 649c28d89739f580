// Turning heads by their token's position, see HeadsCall in calls_attention.h.
#pragma once

#include "lanes.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// One head of one row: each half turns with the other.
//   x[i]          = x[i] cos[i] + x[i + half] signed_sin[i]
//   x[i + half]   = x[i + half] cos[i + half] + x[i] signed_sin[i + half]
inline void turn_halves(const float* cos, const float* signed_sin, int64_t rotary_dim, float* x) {
  const int64_t half = rotary_dim / 2;
  for_lanes(half, [&](int64_t i, int count) {
    const Float16x first = load_some(x + i, count), second = load_some(x + half + i, count);
    const Float16x turned_first = fma(second, load_some(signed_sin + i, count),
                                      first * load_some(cos + i, count));
    const Float16x turned_second = fma(first, load_some(signed_sin + half + i, count),
                                       second * load_some(cos + half + i, count));
    store_some(x + i, turned_first, count);
    store_some(x + half + i, turned_second, count);
  });
}

// The same where 2i turns with 2i + 1.
inline void turn_pairs(const float* cos, const float* signed_sin, int64_t rotary_dim, float* x) {
  for_lanes(rotary_dim, [&](int64_t i, int count) {
    const Float16x values = load_some(x + i, count);
    const Float16x turned = fma(swap_lanes<1>(values), load_some(signed_sin + i, count),
                                values * load_some(cos + i, count));
    store_some(x + i, turned, count);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
