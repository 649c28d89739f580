// What changes single scores of a row before a token is chosen: biases, penalties, a grammar's mask.
//
// Each number is rounded as the reference rounds it (sampling/penalties.py): after every operation.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kWordBits = 32;
constexpr float kRemoved = -std::numeric_limits<float>::infinity();

// A product that the compiler does not make part of a fused operation.
inline float product(float a, float b) {
  float value = a * b;
  asm("" : "+x"(value));
  return value;
}

void add_biases(const Biases& biases, int64_t slot, float* scores) {
  const int32_t* ids = biases.ids + slot * biases.capacity;
  const float* values = biases.values + slot * biases.capacity;
  for (int64_t i = 0; i < biases.counts[slot]; ++i) scores[ids[i]] += values[i];
}

// Tokens of one row's history; some may be none of this part of the vocabulary.
class History {
 public:
  History(const int32_t* tokens, int64_t size) : tokens_(tokens), size_(size) {
    static thread_local std::vector<int32_t> counts;
    if (static_cast<int64_t>(counts.size()) < size) counts.resize(static_cast<size_t>(size));
    counts_ = counts.data();
  }

  // Call `visit(count, token)` for the tokens at some positions. Each token has a count, which the
  // visit may change; all are 0 when a history is made, and must be again when it ends.
  template <class Visit>
  void for_each(int64_t begin, int64_t end, const Visit& visit) const {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t token = tokens_[i];
      if (0 <= token && token < size_) visit(counts_[token], token);
    }
  }

 private:
  const int32_t* tokens_;
  int64_t size_;
  int32_t* counts_;
};

void penalise_repetition(const History& history, int64_t length, float penalty, float* scores) {
  history.for_each(0, length, [&](int32_t& count, int64_t token) {
    if (count++ > 0) return;
    float& score = scores[token];
    score = score < 0 ? product(score, penalty) : score / penalty;
  });
  history.for_each(0, length, [](int32_t& count, int64_t) { count = 0; });
}

void penalise_frequency(const History& history, int64_t start, int64_t length, float frequency,
                        float presence, float* scores) {
  history.for_each(start, length, [](int32_t& count, int64_t) { ++count; });
  history.for_each(start, length, [&](int32_t& count, int64_t token) {
    if (count == 0) return;
    scores[token] = scores[token] - product(static_cast<float>(count), frequency) - presence;
    count = 0;
  });
}

void penalise(const Penalties& penalties, int64_t row, int64_t size, float* scores) {
  const int64_t length = penalties.lengths[row];
  const History history(penalties.tokens + penalties.history_rows[row] * penalties.stride, size);
  const float repetition = penalties.repetition[row], frequency = penalties.frequency[row];
  const float presence = penalties.presence[row];
  if (repetition != 1) penalise_repetition(history, length, repetition, scores);
  if (frequency != 0 || presence != 0) {
    const int64_t start = penalties.output_starts[row];
    penalise_frequency(history, start, length, frequency, presence, scores);
  }
}

// Scores of the tokens of one word, `count` of them at most 32.
void mask_word(float* scores, uint32_t allowed, int64_t count) {
  if (allowed == UINT32_MAX) return;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = (allowed >> i & 1) != 0 ? scores[i] : kRemoved;
  }
}

void mask_scores(const Masks& masks, int64_t place, int64_t size, float* scores) {
  const uint32_t* words = masks.allowed + place * masks.words;
  const int64_t whole = size / kWordBits;
  for (int64_t i = 0; i < whole; ++i) mask_word(scores + i * kWordBits, words[i], kWordBits);
  if (const int64_t rest = size % kWordBits; rest > 0) {
    mask_word(scores + whole * kWordBits, words[whole], rest);
  }
}

void change_row(const ChangeCall& call, int64_t row) {
  float* scores = call.scores + row * call.stride;
  if (call.biases.ids != nullptr) add_biases(call.biases, call.biases.slots[row], scores);
  if (call.penalties.tokens != nullptr) penalise(call.penalties, row, call.size, scores);
  if (call.masks.allowed != nullptr && call.masks.places[row] >= 0) {
    mask_scores(call.masks, call.masks.places[row], call.size, scores);
  }
}

// Whether a row may be changed: most steps have none.
bool changes(const ChangeCall& call, int64_t row) {
  const auto& [ids, values, counts, slots, capacity] = call.biases;
  if (ids != nullptr && counts[slots[row]] > 0) return true;
  if (call.masks.allowed != nullptr && call.masks.places[row] >= 0) return true;
  const Penalties& penalties = call.penalties;
  return penalties.tokens != nullptr &&
         (penalties.repetition[row] != 1 || penalties.frequency[row] != 0 ||
          penalties.presence[row] != 0);
}

}  // namespace

void change_scores(const ChangeCall& call) {
  static thread_local std::vector<int64_t> changed;
  changed.clear();
  for (int64_t row = 0; row < call.rows; ++row) {
    if (changes(call, row)) changed.push_back(row);
  }
  if (changed.empty()) return;
  const int64_t* rows = changed.data();  // not those of the thread that computes a piece
  share_out_rows(call.num_threads, static_cast<int64_t>(changed.size()), call.size,
                 [&, rows](int64_t i) { change_row(call, rows[i]); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
