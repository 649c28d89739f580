// A row of scores: its greatest one.
#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Less than any score, minus infinity included, which counts as this.
inline constexpr float kNone = -3.0e38f;

// Sixteen scores from `i` on; what lies beyond the row counts as kNone, as does minus infinity.
inline Float16x scores_from(const float* scores, int64_t i, int64_t size) {
  if (i + kLanes <= size) return maximum(broadcast(kNone), load(scores + i));
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = i + lane < size ? scores[i + lane] : kNone;
  return maximum(broadcast(kNone), load(lanes));
}

// The greatest score; false where it, or any score, is no number, or all are minus infinity.
inline bool find_best(const float* scores, int64_t size, float& best) {
  Float16x most = broadcast(kNone), no_number = zeros();
  for (int64_t i = 0; i < size; i += kLanes) {
    // Of operands that are no numbers the second is kept.
    const Float16x x = scores_from(scores, i, size);
    most = maximum(x, most);
    no_number = fma(x, zeros(), no_number);
  }
  best = largest(most);
  return !std::isnan(sum(no_number)) && best != kNone;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
