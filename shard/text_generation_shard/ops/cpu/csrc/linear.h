// What the float and the integer products have in common: who computes which tile.
#pragma once

#include "layout.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Rows cut into tiles of at most `max_tile` rows, of sizes that differ by one at most.
struct RowTiles {
  int64_t rows, count;

  RowTiles(int64_t num_rows, int max_tile)
      : rows(num_rows), count(ceil_div(num_rows, max_tile)) {}

  Range operator[](int64_t tile) const {
    return {tile * rows / count, (tile + 1) * rows / count};
  }
};

void linear_float(const LinearCall& call);
void linear_integer(const LinearCall& call);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
