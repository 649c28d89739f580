// The scores of one row of the sampler, and what becomes of them: a cut, and a draw above it.
#pragma once

#include <algorithm>
#include <cmath>

#include "scores.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// One row: scores in whole lanes, the last ones filled up with kNone. Where these are not all, whose
// they are, in ascending order, the sum of e^(score - best) of the others, and the bound above which
// there are no others.
struct Row {
  float* scores;
  int64_t size;
  float best;
  const float* tokens = nullptr;
  float rest = 0;
  float bound = -INFINITY;

  int64_t token(int64_t place) const {
    return tokens == nullptr ? place : static_cast<int64_t>(tokens[place]);
  }
};

// The scores by their temperature, as the reference rounds them; out has room for whole lanes.
Row scaled_row(const float* scores, int64_t size, float best, float temperature, float* out);

// The lowest id of the greatest score.
int64_t first_best(const Row& row);

// Sum of e^(score - best) of what is left.
float total_weight(const Row& row, float cut);

// Call `body(id)` for the tokens that are not below a cut, in ascending order.
template <class Body>
void for_kept(const Row& row, float cut, const Body& body) {
  for (int64_t i = 0; i < row.size; i += kLanes) {
    if (largest(load(row.scores + i)) < cut) continue;
    const int64_t end = std::min(i + kLanes, row.size);
    for (int64_t id = i; id < end; ++id) {
      if (row.scores[id] >= cut) body(id);
    }
  }
}

// The greatest score plus noise, and whose it is: of equal ones the lower id.
struct Winner {
  float value = -INFINITY;
  int64_t id = -1;

  void offer(float candidate, int64_t candidate_id) {
    if (candidate < value || (candidate == value && candidate_id > id)) return;
    value = candidate;
    id = candidate_id;
  }
};

// What a row's filters leave: the tokens whose scores are not below this. Not above the row's bound
// where that is not known.
float cut_of(const SampleCall& call, int64_t index, const Row& row);

// The winner among those, with the noise of call.seeds[index] and call.positions[index].
Winner draw(const SampleCall& call, int64_t index, const Row& row, float cut);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
