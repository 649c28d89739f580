// The greedy choice over the vocabulary.
#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr float kNone = -3.0e38f;

Float16x load_padded(const float* scores, int64_t first, int64_t size) {
  if (first + kLanes <= size) return load(scores + first);
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = first + lane < size ? scores[first + lane] : kNone;
  }
  return load(lanes);
}

void choose_row(const BestCall& call, int64_t row) {
  const float* scores = call.scores + row * call.stride;
  Float16x most = broadcast(kNone), no_number = zeros();
  for (int64_t i = 0; i < call.size; i += kLanes) {
    // Minus infinity is a score like others; of operands that are no numbers the second is kept.
    const Float16x x = maximum(broadcast(kNone), load_padded(scores, i, call.size));
    most = maximum(x, most);
    no_number = fma(x, zeros(), no_number);
  }
  const float best = largest(most);
  if (std::isnan(sum(no_number)) || best == kNone) {
    call.ids[row] = -1;
    return;
  }
  Float16x total = zeros();
  for (int64_t i = 0; i < call.size; i += kLanes) {
    total = total + exponential(load_padded(scores, i, call.size) - broadcast(best));
  }
  int64_t id = 0;
  while (scores[id] != best) ++id;
  call.ids[row] = id;
  call.logprobs[row] = -std::log(sum(total));
}

}  // namespace

void choose_best(const BestCall& call) {
  share_out_rows(call.num_threads, call.rows, call.size,
                 [&](int64_t row) { choose_row(call, row); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
