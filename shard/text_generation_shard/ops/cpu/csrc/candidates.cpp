// The best scores of each row of a part of the vocabulary, and what all weigh together.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "scores.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// How far below the greatest score others are looked for at first, at most, and at least.
constexpr float kFirstDepth = 8, kLargestDepth = 1024, kLeastDepth = 0.03125f;
// Scores that are collected to choose the best ones from, per one that is wanted.
constexpr int64_t kChoice = 16;

struct Candidate {
  float score;
  int64_t id;
};

bool is_better(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// All scores above minus infinity that are not below a bound; false if they are more than a limit.
bool collect(const float* scores, int64_t size, float bound, int64_t limit,
             std::vector<Candidate>& found) {
  found.clear();
  for (int64_t i = 0; i < size; i += kLanes) {
    if (largest(scores_from(scores, i, size)) < bound) continue;
    for (int64_t id = i; id < std::min(i + kLanes, size); ++id) {
      if (scores[id] >= bound && scores[id] > -kInfinity) found.push_back({scores[id], id});
    }
    if (static_cast<int64_t>(found.size()) > limit) return false;
  }
  return true;
}

// At least `count` of the best scores, if there are so many, but not too many. Returns the bound
// above which these are all: minus infinity if there are no others, the best where too many are
// close to it.
float collect_best(const float* scores, int64_t size, float best, int64_t count,
                   std::vector<Candidate>& found) {
  const int64_t limit = kChoice * count;
  float depth = kFirstDepth;
  while (!collect(scores, size, best - depth, limit, found)) {
    depth /= 2;
    if (depth < kLeastDepth) {
      found.clear();
      return best;
    }
  }
  while (static_cast<int64_t>(found.size()) < count && kFirstDepth <= depth && depth < kInfinity) {
    const float deeper = depth < kLargestDepth ? 2 * depth : kInfinity;
    if (!collect(scores, size, best - deeper, limit, found)) {
      collect(scores, size, best - depth, limit, found);
      break;
    }
    depth = deeper;
  }
  return best - depth;
}

float total_weight(const float* scores, int64_t size, float best) {
  Float16x total = zeros();
  for (int64_t i = 0; i < size; i += kLanes) {
    total = total + exponential(scores_from(scores, i, size) - broadcast(best));
  }
  return sum(total);
}

void write_row(const CandidatesCall& call, int64_t index) {
  static thread_local std::vector<Candidate> found;
  const float* scores = call.scores + index * call.stride;
  float* packet = call.packets + index * (2 * call.count + 2);
  float *ids = packet + call.count, *numbers = packet + 2 * call.count;
  std::fill(packet, ids, -kInfinity);
  std::fill(ids, numbers, -1.0f);
  float best;
  if (!find_best(scores, call.size, best)) {
    std::fill(numbers, numbers + 2, best == kNone ? -kInfinity : NAN);
    return;
  }
  float bound = collect_best(scores, call.size, best, call.count, found);
  if (static_cast<int64_t>(found.size()) > call.count) {
    std::nth_element(found.begin(), found.begin() + (call.count - 1), found.end(), is_better);
    found.resize(static_cast<size_t>(call.count));
    bound = found.back().score;
  }
  std::sort(found.begin(), found.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  for (size_t i = 0; i < found.size(); ++i) {
    packet[i] = found[i].score;
    ids[i] = static_cast<float>(call.first_id + found[i].id);
  }
  numbers[0] = bound;
  numbers[1] = best + std::log(total_weight(scores, call.size, best));
}

}  // namespace

void candidates(const CandidatesCall& call) {
  share_out_rows(call.num_threads, call.rows, 2 * call.size,
                 [&](int64_t row) { write_row(call, row); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
