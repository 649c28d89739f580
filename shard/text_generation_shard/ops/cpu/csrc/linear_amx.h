// Integer products of many rows by tile registers.
#pragma once

#include "linear.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Up to so many rows, one tile of AVX-512's, int8 and int4 weights are multiplied by AVX-512 too. It
// takes 16 cycles a row for the 2 KiB that two registers of weights are, so that it is memory which
// takes the time, and int4 stays narrow. With more rows int4 is widened in memory.
inline constexpr int64_t kMaxVectorRows = 8;

// The same bits as AVX-512's.
void linear_integer_many(const LinearCall& call);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
