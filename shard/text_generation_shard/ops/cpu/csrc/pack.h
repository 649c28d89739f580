// Packing of integers, which quantises, apart from that of floats, which only moves them.
#pragma once

#include "kernels.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Where the values of an output are; null: zeros, as for those that fill up the last panel.
inline const void* row_of(const PackCall& call, int64_t output) {
  return output < call.weights.outputs ? call.rows[output] : nullptr;
}

int64_t packed_integer_bytes(const Weights& weights);
void pack_integer(const PackCall& call);
// One row of the matrix, [inputs].
void read_integer_row(const Weights& weights, int64_t output, float* out);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
