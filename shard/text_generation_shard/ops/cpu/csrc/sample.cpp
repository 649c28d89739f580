// One token of the vocabulary for each row: temperature, top-k, top-p, min-p, and a draw.
//
// All three filters are thresholds on a score, so what they leave is what is not below one cut. A
// draw is the greatest score plus Gumbel noise (Philox 4x32-10 of the seed, the position and the
// token; see sampling/philox.py). Noise above some value comes from a random word below some value,
// so a token's noise is only computed where it can still win.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "parallel.h"
#include "scores.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr float kWordStep = 0x1p-32f;
constexpr float kLargestUniform = 1.0f - 0x1p-24f;
// Random words that are made at one time: four of each counter.
constexpr int kCounters = kLanes;
constexpr int kWords = 4 * kCounters;
// Where fewer of the tokens are left, noise is made for each of them alone.
constexpr int64_t kFewShare = 16;

// How far below the greatest score others are looked for step by step, before all are taken.
constexpr float kLargestDepth = 1024;

// One row: scores in whole lanes, the last ones filled up with kNone. Where these are not all, whose
// they are, in ascending order, and the sum of e^(score - best) of the others.
struct Row {
  float* scores;
  int64_t size;
  float best;
  const float* tokens = nullptr;
  float rest = 0;

  int64_t token(int64_t place) const {
    return tokens == nullptr ? place : static_cast<int64_t>(tokens[place]);
  }
};

// The scores by their temperature, as the reference rounds them.
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

// The lowest id of the greatest score.
int64_t first_best(const Row& row) {
  return std::find(row.scores, row.scores + row.size, row.best) - row.scores;
}

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

// Sum of e^(score - best) of what is left.
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

// The score at which the probability, best first, reaches `mass`; the least one where it does not.
// Only scores close to the cut are sorted: the others are summed by how far below the best they are.
float mass_cut_of(const std::vector<float>& scores, const std::vector<float>& probabilities,
                  float mass, float best) {
  constexpr int bins = 1024;
  const float lowest = *std::min_element(scores.begin(), scores.end());
  const float bins_per_unit = best > lowest ? bins / (best - lowest) : 0;
  const auto bin_of = [&](float score) {
    return std::min(static_cast<int>((best - score) * bins_per_unit), bins - 1);
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
  return near.empty() ? lowest : near.back().first;
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

// What a row's filters leave.
float cut_of(const SampleCall& call, int64_t index, const Row& row) {
  static thread_local std::vector<float> found;
  const int64_t top_k = call.top_k[index];
  const float top_p = call.top_p[index], min_p = call.min_p[index];
  float cut = kNone;
  if (0 < top_k && top_k < row.size) cut = kth_greatest(row, top_k, found);
  if (top_p < 1) cut = std::max(cut, mass_cut(row, cut, top_p, found));
  if (min_p > 0) cut = std::max(cut, row.best + std::log(min_p));
  return cut;
}

struct Random {
  uint32_t key[2];
  uint32_t position;
  uint32_t start;

  Random(int64_t seed, int64_t position, int64_t first_id)
      : key{static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)},
        position(static_cast<uint32_t>(position)),
        start(static_cast<uint32_t>(first_id / 4)) {}

  // words[4 * i + j]: word j of counter first + i of the row.
  template <int Count>
  void make(uint32_t first, uint32_t* words) const {
    uint32_t c0[Count], c1[Count], c2[Count], c3[Count];
    for (int i = 0; i < Count; ++i) {
      c0[i] = start + first + static_cast<uint32_t>(i);
      c1[i] = position;
      c2[i] = c3[i] = 0;
    }
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < Count; ++i) {
        const uint64_t product0 = uint64_t{c0[i]} * 0xD2511F53u;
        const uint64_t product1 = uint64_t{c2[i]} * 0xCD9E8D57u;
        c0[i] = static_cast<uint32_t>(product1 >> 32) ^ c1[i] ^ k0;
        c2[i] = static_cast<uint32_t>(product0 >> 32) ^ c3[i] ^ k1;
        c1[i] = static_cast<uint32_t>(product1);
        c3[i] = static_cast<uint32_t>(product0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < Count; ++i) {
      words[4 * i] = c0[i];
      words[4 * i + 1] = c1[i];
      words[4 * i + 2] = c2[i];
      words[4 * i + 3] = c3[i];
    }
  }
};

inline float uniform(uint32_t word) {
  return std::min((static_cast<float>(word) + 0.5f) * kWordStep, kLargestUniform);
}
inline float gumbel(float uniform) { return -std::log(-std::log1p(-uniform)); }

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

Winner draw_among_few(const Row& row, float cut, const Random& random) {
  Winner winner;
  uint32_t words[4];
  int64_t counter = -1;
  for_kept(row, cut, [&](int64_t place) {
    const int64_t id = row.token(place);
    if (counter != id / 4) {
      counter = id / 4;
      random.make<1>(static_cast<uint32_t>(counter), words);
    }
    winner.offer(row.scores[place] + gumbel(uniform(words[id % 4])), place);
  });
  return winner;
}

// score + noise >= value only if u <= e^(score - value): with some room for what rounding does.
Float16x uniform_limits(const float* scores, float value) {
  const float room = 0.01f + std::fabs(value) * 0x1p-22f;
  return exponential(load(scores) - broadcast(value - room));
}

Winner draw_among_many(const Row& row, float cut, const Random& random) {
  Winner winner;
  // Begin with a token that is likely to win: the more of the others need no noise.
  const int64_t likely = first_best(row);
  uint32_t four[4];
  random.make<1>(static_cast<uint32_t>(likely / 4), four);
  winner.offer(row.scores[likely] + gumbel(uniform(four[likely % 4])), likely);
  for (int64_t first = 0; first < row.size; first += kWords) {
    uint32_t words[kWords];
    float uniforms[kWords];
    random.make<kCounters>(static_cast<uint32_t>(first / 4), words);
    for (int i = 0; i < kWords; ++i) uniforms[i] = uniform(words[i]);
    for (int64_t i = first; i < std::min(first + kWords, row.size); i += kLanes) {
      const Float16x limits = uniform_limits(row.scores + i, winner.value);
      if (largest(limits - load(uniforms + (i - first))) < 0) continue;
      for (int64_t id = i; id < std::min(i + kLanes, row.size); ++id) {
        if (row.scores[id] >= cut) winner.offer(row.scores[id] + gumbel(uniforms[id - first]), id);
      }
    }
  }
  return winner;
}

Winner draw(const Row& row, float cut, const Random& random) {
  if (row.tokens != nullptr) return draw_among_few(row, cut, random);
  if (cut > kNone) {
    int64_t count = 0;
    for_kept(row, cut, [&](int64_t) { ++count; });
    if (count * kFewShare <= row.size) return draw_among_few(row, cut, random);
  }
  return draw_among_many(row, cut, random);
}

void choose(const SampleCall& call, int64_t index, const Row& row, float cut) {
  Winner winner;
  if (call.draws[index]) {
    winner = draw(row, cut, Random(call.seeds[index], call.positions[index], call.first_id));
  } else {
    winner.offer(row.best, first_best(row));
  }
  call.ids[index] = row.token(winner.id);
  call.logprobs[index] = row.scores[winner.id] - row.best - std::log(total_weight(row, cut));
  call.values[index] = winner.value;
}

void sample_row(const SampleCall& call, int64_t index) {
  static thread_local Scratch scratch;
  const float* scores = call.scores + index * call.stride;
  float best;
  if (!find_best(scores, call.size, best)) {
    call.ids[index] = -1;
    return;
  }
  auto* memory = static_cast<float*>(scratch.reserve(ceil_lanes(call.size) * 4));
  const Row row = scaled_row(scores, call.size, best, call.temperature[index], memory);
  choose(call, index, row, cut_of(call, index, row));
}

// From what the parts of the vocabulary gave, if the cut lies where all of them gave everything.
void choose_row(const ChoiceCall& call, int64_t index) {
  static thread_local Scratch scratch;
  const int64_t size = call.parts * call.count, lanes = ceil_lanes(size);
  auto* scores = static_cast<float*>(scratch.reserve(2 * lanes * 4));
  float* tokens = scores + lanes;
  std::fill(scores + size, scores + lanes, kNone);
  float best = kNone, bound = -INFINITY;
  const auto packet_of = [&](int64_t part) {
    return call.packets + (part * call.sample.rows + index) * (2 * call.count + 2);
  };
  call.sample.ids[index] = -1;
  for (int64_t part = 0; part < call.parts; ++part) {
    const float *packet = packet_of(part), *numbers = packet + 2 * call.count;
    if (std::isnan(numbers[0])) return;
    bound = std::max(bound, numbers[0]);
    for (int64_t i = 0; i < call.count; ++i) {
      scores[part * call.count + i] = std::max(kNone, packet[i]);
      best = std::max(best, packet[i]);
    }
    std::copy(packet + call.count, numbers, tokens + part * call.count);
  }
  if (best == kNone) return;
  Row row{scores, size, best, tokens};
  double rest = -static_cast<double>(total_weight(row, kNone));
  for (int64_t part = 0; part < call.parts; ++part) {
    rest += std::exp(static_cast<double>(packet_of(part)[2 * call.count + 1] - best));
  }
  row.rest = std::max(0.0f, static_cast<float>(rest));
  const float cut = cut_of(call.sample, index, row);
  if (cut > bound) choose(call.sample, index, row, cut);
}

}  // namespace

void choose(const ChoiceCall& call) {
  share_out_rows(call.sample.num_threads, call.sample.rows, 4 * call.parts * call.count,
                 [&](int64_t row) { choose_row(call, row); });
}

void sample(const SampleCall& call) {
  share_out_rows(call.num_threads, call.rows, 2 * call.size,
                 [&](int64_t row) { sample_row(call, row); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
