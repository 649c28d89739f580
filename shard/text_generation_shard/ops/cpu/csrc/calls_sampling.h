// What the kernels of the sampler are asked for: as calls_layers.h has it.
#pragma once

#include <cstdint>

namespace cpu_operators {

// The greatest score of each row, the first of equal ones, and its log-softmax.
struct BestCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  int64_t* ids;     // [rows]; -1 where a score is NaN or infinite, or all are minus infinity
  float* logprobs;  // [rows]
  int num_threads;
};

// What is added to single scores, by slot: `counts[slot]` tokens, each once.
struct Biases {
  const int32_t* ids;    // [any, capacity], or null: there are none
  const float* values;   // [any, capacity]
  const int64_t* counts;  // [any]
  const int64_t* slots;   // [rows]
  int64_t capacity;
};

// Of the tokens that a row has: all before lengths, or the output from output_starts on.
struct Penalties {
  const int32_t* tokens;  // [any], of this stride between rows, or null: there are none
  int64_t stride;
  const int64_t *history_rows, *lengths, *output_starts;  // [rows]
  const float *repetition, *frequency, *presence;         // [rows]; off: 1, 0 and 0
};

// Bit token % 32 of word token / 32 of a mask is 0 where the score becomes minus infinity.
struct Masks {
  const uint32_t* allowed;  // [any, words], or null: there are none
  const int64_t* places;    // [rows], the row's mask; negative: none
  int64_t words;
};

// Scores in place: biases, penalties and masks, in this order.
struct ChangeCall {
  float* scores;  // [rows, size], of this stride between rows
  int64_t rows, size, stride;
  Biases biases;
  Penalties penalties;
  Masks masks;
  int num_threads;
};

// One token for each row: the greatest score, or a draw, after temperature, top-k, top-p and min-p.
struct SampleCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  const float *temperature, *top_p, *min_p;  // [rows]; off: 1, 1 and 0
  const int64_t* top_k;                      // [rows]; off: 0
  const bool* draws;                         // [rows]; false: the greatest score
  const int64_t *seeds, *positions;          // [rows], what the noise of a draw depends on
  int64_t first_id;  // the token of the first score, a multiple of 4: its noise depends on it, too
  int64_t* ids;      // [rows], from 0 for the first score; -1 as for BestCall
  float* logprobs;   // [rows], log-softmax of what the filters leave
  float* values;     // [rows], the chosen scores with their noise
  int num_threads;
};

// The best scores of each row of a part of the vocabulary, one packet each: `count` scores, as many
// tokens, ascending; the bound above which these are all, minus infinity if there are no others; and
// the logarithm of the sum of e^score of the whole part. What is not used is minus infinity, and -1.
// Both numbers are NaN where a score is no number.
struct CandidatesCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  int64_t first_id, count;
  float* packets;  // [rows, 2 * count + 2]
  int num_threads;
};

// As SampleCall, from the packets of all parts; -1 where they do not suffice, too.
struct ChoiceCall {
  SampleCall sample;     // without scores and temperature
  const float* packets;  // [parts, rows, 2 * count + 2]
  int64_t parts, count;
};

}  // namespace cpu_operators
