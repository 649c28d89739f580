// Which experts compute a token.
#include "lanes.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr float kNever = -3.0e38f;
// SparseMixer: a score this far below the best one, in parts of the larger of the two, is not weighed.
constexpr float kTolerance = 2 * 0.01f;

float dot(const float* a, const float* b, int64_t size) {
  Float16x total = zeros();
  for_lanes(size, [&](int64_t i, int count) {
    total = fma(load_some(a + i, count), load_some(b + i, count), total);
  });
  return sum(total);
}

// The place of the greatest that is not below `kNever`, the first of equal ones.
int64_t best_of(const float* values, int64_t size) {
  int64_t best = 0;
  for (int64_t i = 1; i < size; ++i) {
    if (values[i] > values[best]) best = i;
  }
  return best;
}

void softmax(float* x, int64_t size) {
  const float greatest = x[best_of(x, size)];
  float total = 0;
  for (int64_t i = 0; i < size; ++i) total += x[i] = __builtin_expf(x[i] - greatest);
  for (int64_t i = 0; i < size; ++i) x[i] /= total;
}

// Leave `kNever` of all groups but the best; `spare` has room for every expert.
void keep_best_groups(const RouteCall& call, float* candidates, float* spare) {
  const int64_t size = call.experts / call.groups;
  float* worth = spare + call.experts;  // [groups]
  for (int64_t group = 0; group < call.groups; ++group) {
    worth[group] = 0;
    for (int64_t i = 0; i < size; ++i) spare[i] = candidates[group * size + i];
    for (int64_t i = 0; i < call.group_members; ++i) {
      const int64_t best = best_of(spare, size);
      worth[group] += spare[best];
      spare[best] = kNever;
    }
  }
  for (int64_t i = 0; i < call.experts; ++i) spare[i] = candidates[i], candidates[i] = kNever;
  for (int64_t kept = 0; kept < call.chosen_groups; ++kept) {
    const int64_t group = best_of(worth, call.groups);
    worth[group] = kNever;
    for (int64_t i = group * size; i < (group + 1) * size; ++i) candidates[i] = spare[i];
  }
}

// The probability of the best of the candidates among those with nearly its score.
float weigh_among_near(const float* scores, const float* candidates, int64_t best, int64_t size) {
  float total = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (candidates[i] == kNever) continue;
    const float magnitude = scores[i] < 0 ? -scores[i] : scores[i];
    const float largest = magnitude > candidates[best] ? magnitude : candidates[best];
    if ((candidates[best] - candidates[i]) / largest > kTolerance) continue;
    total += __builtin_expf(candidates[i] - candidates[best]);
  }
  return 1.0f / total;
}

// scores: [experts], of one row; spare: room for 3 * experts.
void choose(const RouteCall& call, int64_t row, float* scores, float* spare) {
  const int64_t experts = call.experts;
  int64_t* ids = call.ids + row * call.chosen;
  float* weights = call.weights + row * call.chosen;
  float* candidates = spare;
  if (call.scoring == Scoring::kSoftmax) softmax(scores, experts);
  if (call.scoring == Scoring::kSigmoid) {
    for (int64_t i = 0; i < experts; ++i) scores[i] = 1.0f / (1.0f + __builtin_expf(-scores[i]));
  }
  for (int64_t i = 0; i < experts; ++i) {
    candidates[i] = scores[i] + (call.choice_bias == nullptr ? 0 : call.choice_bias[i]);
  }
  if (call.chosen_groups < call.groups) keep_best_groups(call, candidates, spare + experts);
  float total = 0;
  for (int64_t i = 0; i < call.chosen; ++i) {
    ids[i] = best_of(candidates, experts);
    weights[i] = call.scoring == Scoring::kSparseMixer
                     ? weigh_among_near(scores, candidates, ids[i], experts)
                     : scores[ids[i]];
    candidates[ids[i]] = kNever;
    total += weights[i];
  }
  const float factor = call.is_normalised ? call.scale / (total + 1e-20f) : call.scale;
  for (int64_t i = 0; i < call.chosen; ++i) weights[i] *= factor;
}

}  // namespace

void route(const RouteCall& call) {
  static thread_local Scratch scratch;
  const int64_t scored = call.rows * call.experts;
  auto* scores = static_cast<float*>(scratch.reserve(4 * 4 * scored));
  float* spare = scores + scored;
  share_out(call.num_threads, call.experts, 16, [&](Range some) {
    for (int64_t row = 0; row < call.rows; ++row) {
      const float* x = call.x + row * call.hidden;
      for (int64_t expert = some.begin; expert < some.end; ++expert) {
        const float bias = call.bias == nullptr ? 0 : call.bias[expert];
        const float* weight = call.weight + expert * call.hidden;
        scores[row * call.experts + expert] = dot(x, weight, call.hidden) + bias;
      }
    }
  });
  share_out_rows(call.num_threads, call.rows, 32 * call.experts, [&](int64_t row) {
    choose(call, row, scores + row * call.experts, spare + 3 * row * call.experts);
  });
}

void gate(const GateCall& call) {
  share_out_rows(call.num_threads, call.rows, call.hidden + call.size, [&](int64_t row) {
    const float score = dot(call.x + row * call.hidden, call.weight, call.hidden);
    const Float16x factor = broadcast(1.0f / (1.0f + __builtin_expf(-score)));
    float* y = call.y + row * call.size;
    for_lanes(call.size, [&](int64_t i, int count) {
      store_some(y + i, load_some(y + i, count) * factor, count);
    });
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
