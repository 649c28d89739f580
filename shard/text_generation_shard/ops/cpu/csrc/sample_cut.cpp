// What top-k, top-p and min-p leave of a row. Each is a threshold on a score, so what they leave is
// what is not below one cut.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "sample_row.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// How far below the greatest score others are looked for step by step, before all are taken.
constexpr float kLargestDepth = 1024;

// Some of the best scores: those within `depth` of the greatest, and not below a cut. Returns
// whether these are all above the cut.
bool collect(const Row& row, float cut, float depth, std::vector<float>& found) {
  const float bound = std::max(row.best - depth, cut);
  found.clear();
  for_kept(row, bound, [&](int64_t id) { found.push_back(row.scores[id]); });
  return bound <= cut;
}

// Collect more and more of the best scores until they are enough, or all above the cut.
template <class Enough>
void collect_until(const Row& row, float cut, std::vector<float>& found, const Enough& is_enough) {
  float depth = 1;
  while (!collect(row, cut, depth, found) && !is_enough(found)) {
    depth = depth < kLargestDepth ? 2 * depth : INFINITY;
  }
}

float kth_greatest(const Row& row, int64_t k, std::vector<float>& found) {
  const auto count = static_cast<size_t>(k);
  collect_until(row, kNone, found, [&](const auto& some) { return some.size() >= count; });
  if (found.size() <= count) return *std::min_element(found.begin(), found.end());
  const auto place = found.begin() + (k - 1);
  std::nth_element(found.begin(), place, found.end(), std::greater<>());
  return *place;
}

// The score at which the probability, best first, reaches `mass`; kNone where it does not.
// Only scores close to the cut are sorted: the others are summed by how far below the best they are.
float mass_cut_of(const std::vector<float>& scores, const std::vector<float>& probabilities,
                  float mass, float best) {
  constexpr int bins = 1024;
  const float lowest = *std::min_element(scores.begin(), scores.end());
  // In float64, which has room for the distance of any two scores and for its inverse: a temperature
  // may leave scores 1e-37 apart.
  const double top = best;
  const double bins_per_unit = best > lowest ? bins / (top - lowest) : 0;
  const auto bin_of = [&](float score) {
    return std::min(static_cast<int>((top - score) * bins_per_unit), bins - 1);
  };
  double sums[bins] = {};
  for (size_t i = 0; i < scores.size(); ++i) sums[bin_of(scores[i])] += probabilities[i];
  double reached = 0;
  int bin = 0;
  while (bin < bins && reached + sums[bin] < static_cast<double>(mass)) reached += sums[bin++];
  std::vector<std::pair<float, float>> near;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (bin_of(scores[i]) == bin) near.emplace_back(scores[i], probabilities[i]);
  }
  std::sort(near.begin(), near.end(), std::greater<>());
  for (const auto& [score, probability] : near) {
    reached += probability;
    if (reached >= static_cast<double>(mass)) return score;
  }
  return near.empty() ? kNone : near.back().first;
}

// The score at which the probability of what is left above the cut, best first, reaches `mass`.
float mass_cut(const Row& row, float cut, float mass, std::vector<float>& found) {
  const float total = total_weight(row, cut);
  std::vector<float> weights;
  const auto weigh = [&](const std::vector<float>& some) {
    weights.resize(static_cast<size_t>(ceil_lanes(static_cast<int64_t>(some.size()))));
    for (size_t i = 0; i < some.size(); i += kLanes) {
      const int count = static_cast<int>(std::min<size_t>(kLanes, some.size() - i));
      store(&weights[i], exponential(load_some(&some[i], count) - broadcast(row.best)));
    }
  };
  collect_until(row, cut, found, [&](const std::vector<float>& some) {
    weigh(some);
    double sum = 0;
    for (size_t i = 0; i < some.size(); ++i) sum += weights[i] / total;
    return sum >= static_cast<double>(mass);
  });
  weigh(found);
  for (size_t i = 0; i < found.size(); ++i) weights[i] /= total;
  return mass_cut_of(found, weights, mass, row.best);
}

}  // namespace

float cut_of(const SampleCall& call, int64_t index, const Row& row) {
  static thread_local std::vector<float> found;
  const int64_t top_k = call.top_k[index];
  const float top_p = call.top_p[index], min_p = call.min_p[index];
  float cut = kNone;
  if (0 < top_k && top_k < row.size) cut = kth_greatest(row, top_k, found);
  // Top-p wants a share of what top-k leaves.
  if (0 < top_k && cut <= row.bound) return cut;
  if (top_p < 1) cut = std::max(cut, mass_cut(row, cut, top_p, found));
  if (min_p > 0) cut = std::max(cut, row.best + std::log(min_p));
  return cut;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
