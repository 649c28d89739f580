// Products of int8 or int4 weights by vectors of integers.
#include "linear_integer_product.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace integer {
namespace {

struct Vectors {
  static constexpr int kTileRows = kIntegerTileRows;
  static constexpr bool kReadsInt4 = true;

  template <int Stored, int Bits>
  static void multiply(const Tile<Bits>& tile, int64_t rows) {
    multiply_rows<Stored, Bits>(tile, rows);
  }
};

// Up to so many rows the sums of a part have registers of their own.
constexpr int64_t kMaxPartRows = 6;

// What few rows multiply as it is stored, many may multiply as int8.
template <class Int4 = Dot<4>>
void multiply_int4(const LinearCall& call) {
  if constexpr (Int4::kWidens) {
    if (call.rows > kMaxPartRows) return multiply_all<Vectors, 4, 8>(call);
  }
  multiply_all<Vectors, 4, 4>(call);
}

}  // namespace
}  // namespace integer

void linear_integer(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kInt8) {
    integer::multiply_all<integer::Vectors, 8, 8>(call);
  } else {
    integer::multiply_int4(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
