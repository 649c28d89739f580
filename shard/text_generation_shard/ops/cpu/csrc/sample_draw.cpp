// A draw is the greatest score plus Gumbel noise (Philox 4x32-10 of the seed, the position and the
// token; see sampling/philox.py). Noise above some value comes from a random word below some value,
// so a token's noise is only computed where it can still win.
#include <algorithm>
#include <cmath>

#include "sample_row.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr float kWordStep = 0x1p-32f;
constexpr float kLargestUniform = 1.0f - 0x1p-24f;
// Random words that are made at one time: four of each counter.
constexpr int kCounters = kLanes;
constexpr int kWords = 4 * kCounters;
// Where fewer of the tokens are left, noise is made for each of them alone.
constexpr int64_t kFewShare = 16;

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

}  // namespace

Winner draw(const SampleCall& call, int64_t index, const Row& row, float cut) {
  const Random random(call.seeds[index], call.positions[index], call.first_id);
  if (row.tokens != nullptr) return draw_among_few(row, cut, random);
  if (cut > kNone) {
    int64_t count = 0;
    for_kept(row, cut, [&](int64_t) { ++count; });
    if (count * kFewShare <= row.size) return draw_among_few(row, cut, random);
  }
  return draw_among_many(row, cut, random);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
