// What is known of the scores of one row.
#include "sample_row.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

Row scaled_row(const float* scores, int64_t size, float best, float temperature, float* out) {
  const bool is_scaled = temperature != 1;
  for (int64_t i = 0; i < size; i += kLanes) {
    Float16x x = load_some(scores + i, static_cast<int>(std::min<int64_t>(kLanes, size - i)));
    if (is_scaled) x = (x - broadcast(best)) / broadcast(temperature);
    store(out + i, maximum(x, broadcast(kNone)));
  }
  for (int64_t i = size; i < ceil_lanes(size); ++i) out[i] = kNone;
  return {out, size, is_scaled ? 0.0f : best};
}

int64_t first_best(const Row& row) {
  return std::find(row.scores, row.scores + row.size, row.best) - row.scores;
}

float total_weight(const Row& row, float cut) {
  const Float16x best = broadcast(row.best);
  if (cut <= kNone) {
    Float16x total = zeros();
    for (int64_t i = 0; i < ceil_lanes(row.size); i += kLanes) {
      total = total + exponential(load(row.scores + i) - best);
    }
    return sum(total) + row.rest;
  }
  double total = 0;
  for (int64_t i = 0; i < row.size; i += kLanes) {
    const Float16x scores = load(row.scores + i);
    if (largest(scores) < cut) continue;
    float weights[kLanes];
    store(weights, exponential(scores - best));
    for (int lane = 0; lane < kLanes; ++lane) {
      if (row.scores[i + lane] >= cut) total += weights[lane];
    }
  }
  return static_cast<float>(total);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
