// Masks over the vocabulary: what a grammar does not allow loses its score.
#include <limits>

#include "kernels.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kWordBits = 32;
constexpr float kRemoved = -std::numeric_limits<float>::infinity();

// Scores of the tokens of one word, `count` of them at most 32.
void mask_word(float* scores, uint32_t allowed, int64_t count) {
  if (allowed == UINT32_MAX) return;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = (allowed >> i & 1) != 0 ? scores[i] : kRemoved;
  }
}

void mask_row(const MaskCall& call, int64_t mask) {
  float* scores = call.scores + call.rows[mask] * call.stride;
  const uint32_t* words = call.allowed + mask * call.words;
  const int64_t whole = call.size / kWordBits;
  for (int64_t i = 0; i < whole; ++i) mask_word(scores + i * kWordBits, words[i], kWordBits);
  if (const int64_t rest = call.size % kWordBits; rest > 0) {
    mask_word(scores + whole * kWordBits, words[whole], rest);
  }
}

}  // namespace

void mask_scores(const MaskCall& call) {
  share_out_rows(call.num_threads, call.masks, call.size,
                 [&](int64_t mask) { mask_row(call, mask); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
