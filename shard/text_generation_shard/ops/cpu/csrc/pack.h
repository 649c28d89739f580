// Packing of integers, which quantises, apart from that of floats, which only moves them.
#pragma once

#include "kernels.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

int64_t packed_integer_bytes(const Weights& weights);
void pack_integer(const PackCall& call);
// One row of the matrix, [inputs].
void read_integer_row(const Weights& weights, int64_t output, float* out);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
