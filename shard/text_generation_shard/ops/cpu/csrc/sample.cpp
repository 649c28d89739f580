// One token of the vocabulary for each row: temperature, top-k, top-p, min-p, and a draw.
#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "sample_row.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

void choose(const SampleCall& call, int64_t index, const Row& row, float cut) {
  Winner winner;
  if (call.draws[index]) {
    winner = draw(call, index, row, cut);
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
  Row row{scores, size, kNone, tokens};
  const auto packet_of = [&](int64_t part) {
    return call.packets + (part * call.sample.rows + index) * (2 * call.count + 2);
  };
  call.sample.ids[index] = -1;
  for (int64_t part = 0; part < call.parts; ++part) {
    const float *packet = packet_of(part), *numbers = packet + 2 * call.count;
    if (std::isnan(numbers[0])) return;
    row.bound = std::max(row.bound, numbers[0]);
    for (int64_t i = 0; i < call.count; ++i) {
      scores[part * call.count + i] = std::max(kNone, packet[i]);
      row.best = std::max(row.best, packet[i]);
    }
    std::copy(packet + call.count, numbers, tokens + part * call.count);
  }
  if (row.best == kNone) return;
  double rest = -static_cast<double>(total_weight(row, kNone));
  for (int64_t part = 0; part < call.parts; ++part) {
    rest += std::exp(static_cast<double>(packet_of(part)[2 * call.count + 1] - row.best));
  }
  row.rest = std::max(0.0f, static_cast<float>(rest));
  const float cut = cut_of(call.sample, index, row);
  if (cut > row.bound) choose(call.sample, index, row, cut);
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
