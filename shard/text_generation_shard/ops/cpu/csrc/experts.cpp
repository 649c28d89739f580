// The chosen experts of every row: rows are sorted by expert, so that each expert that was chosen
// reads its weights once.
//
//   place    r0 r3 r4 | r0 r2 | r1 ...
//   expert   0        | 2     | 5
#include "lanes.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

void activate(const ActivationCall& call);

namespace {

// Room for the intermediate results of all places.
struct Places {
  int64_t* first;   // [experts + 1]: where the rows of an expert begin
  int64_t* of;      // [rows * chosen]: the place of each choice
  int64_t* choice;  // [rows * chosen]: and the other way round
  float* inputs;    // [places, hidden]
  float* gates;     // [places of one expert, 2 * size], and behind it what is made of them
  float* outputs;   // [places, hidden]
};

void sort_by_expert(const MixCall& call, const Places& places) {
  const int64_t choices = call.rows * call.chosen;
  for (int64_t expert = 0; expert <= call.experts; ++expert) places.first[expert] = 0;
  for (int64_t i = 0; i < choices; ++i) ++places.first[call.ids[i] + 1];
  for (int64_t expert = 0; expert < call.experts; ++expert) {
    places.first[expert + 1] += places.first[expert];
  }
  for (int64_t i = 0; i < choices; ++i) {  // moves every beginning to the next one's
    const int64_t place = places.first[call.ids[i]]++;
    places.of[i] = place;
    places.choice[place] = i;
  }
  for (int64_t expert = call.experts; expert > 0; --expert) {
    places.first[expert] = places.first[expert - 1];
  }
  places.first[0] = 0;
}

void gather(const MixCall& call, const Places& places) {
  share_out_rows(call.num_threads, call.rows * call.chosen, call.hidden, [&](int64_t place) {
    const int64_t choice = places.choice[place];
    const float* x = call.x + choice / call.chosen * call.hidden;
    const Float16x factor = broadcast(call.weighs_inputs ? call.weights[choice] : 1.0f);
    float* out = places.inputs + place * call.hidden;
    for_lanes(call.hidden, [&](int64_t i, int count) {
      store_some(out + i, load_some(x + i, count) * factor, count);
    });
  });
}

void compute(const MixCall& call, const Places& places, int64_t expert) {
  const int64_t first = places.first[expert], rows = places.first[expert + 1] - first;
  if (rows == 0) return;
  const Weights &up = call.up[expert], &down = call.down[expert];
  const float* up_bias = call.up_bias == nullptr ? nullptr : call.up_bias + expert * up.outputs;
  const float* down_bias =
      call.down_bias == nullptr ? nullptr : call.down_bias + expert * call.hidden;
  float* activated = places.gates + rows * up.outputs;
  call.linear({places.inputs + first * call.hidden, rows, call.hidden, up, up_bias, nullptr,
               places.gates, up.outputs, call.num_threads});
  activate({places.gates, rows, down.inputs, call.activation, true, call.limit, call.alpha,
            activated, call.num_threads});
  call.linear({activated, rows, down.inputs, down, down_bias, nullptr,
               places.outputs + first * call.hidden, call.hidden, call.num_threads});
}

void add_up(const MixCall& call, const Places& places) {
  share_out_rows(call.num_threads, call.rows, call.hidden * (call.chosen + 1), [&](int64_t row) {
    float* out = call.out + row * call.hidden;
    for_lanes(call.hidden, [&](int64_t i, int count) {
      Float16x total = zeros();
      for (int64_t k = row * call.chosen; k < (row + 1) * call.chosen; ++k) {
        const Float16x made = load_some(places.outputs + places.of[k] * call.hidden + i, count);
        total = fma(made, broadcast(call.weighs_inputs ? 1.0f : call.weights[k]), total);
      }
      if (call.addend != nullptr) {
        total = total + load_some(call.addend + row * call.hidden + i, count);
      }
      store_some(out + i, total, count);
    });
  });
}

}  // namespace

void mix_experts(const MixCall& call) {
  static thread_local Scratch numbers, values;
  const int64_t choices = call.rows * call.chosen;
  if (choices == 0) return;
  auto* first = static_cast<int64_t*>(numbers.reserve(8 * (call.experts + 1 + 2 * choices)));
  const Places sorted = {first, first + call.experts + 1, first + call.experts + 1 + choices,
                         nullptr, nullptr, nullptr};
  sort_by_expert(call, sorted);
  int64_t most = 0;
  for (int64_t expert = 0; expert < call.experts; ++expert) {
    const int64_t rows = first[expert + 1] - first[expert];
    most = rows > most ? rows : most;
  }
  const int64_t width = call.up[0].outputs + call.down[0].inputs;
  auto* inputs = static_cast<float*>(values.reserve(4 * (2 * choices * call.hidden + most * width)));
  float* outputs = inputs + choices * call.hidden;
  const Places places = {sorted.first, sorted.of, sorted.choice, inputs,
                         outputs + choices * call.hidden, outputs};
  gather(call, places);
  for (int64_t expert = 0; expert < call.experts; ++expert) compute(call, places, expert);
  add_up(call, places);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
