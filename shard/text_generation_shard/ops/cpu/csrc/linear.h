// What the float and the integer products have in common: who computes which tile.
#pragma once

#include "layout.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// `__builtin_prefetch`: the first cache is too small for what is asked for.
inline constexpr int kToSecondCache = 2;

// Rows cut into tiles of at most `max_tile` rows, of sizes that differ by one at most.
struct RowTiles {
  int64_t rows, count;

  RowTiles(int64_t num_rows, int max_tile)
      : rows(num_rows), count(ceil_div(num_rows, max_tile)) {}

  Range operator[](int64_t tile) const {
    return {tile * rows / count, (tile + 1) * rows / count};
  }
  // The tile that has a row.
  int64_t of(int64_t row) const { return ((row + 1) * count - 1) / rows; }
};

void linear_float(const LinearCall& call);
void linear_integer(const LinearCall& call);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
