// Products of int8 or int4 weights with many rows of quantised activations, by the tile registers of
// a processor with AMX: the same integers within a group as AVX-512 has, which then scales and adds
// them in the same order.
#include <cstring>

#include "linear_amx.h"
#include "linear_integer_product.h"
#include "tile_registers.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace integer {
namespace {

static_assert(kMaxVectorRows == kIntegerTileRows);
// Inputs that registers multiply at one time: two parts of a group.
constexpr int64_t kBatchParts = kRegisterBytes / kPartInputs;
constexpr int64_t kStepStride = kPanels * kStepBytes;
constexpr int64_t kBatchBytes = kRegisterRows * kStepStride;

// Of one group, [rows][kPanels][16].
template <int Rows>
struct alignas(64) IntegerSums {
  int32_t sums[Rows * kRegisterRows][kPanels][kLanes];
};
template <int Rows>
struct Totals {
  Float16x rows[Rows * kRegisterRows][1][kPanels];
};

// Multiply a group of up to four parts. Activations behind the last input are zeros.
template <int Rows>
void multiply_group(const Group& group, const Cell<8>* x, int64_t parts, Ahead& ahead,
                    IntegerSums<Rows>& out) {
  using Block = RegisterBlock<Rows, kPanels>;
  constexpr int64_t cell = sizeof(Cell<8>);
  Operand lefts{reinterpret_cast<const uint8_t*>(x->quads), kRegisterRows * cell, cell};
  Operand rights{group.weights, kStepBytes, kStepStride};
  Block::zero();
  for (int64_t steps = parts * kPartQuads; steps > 0; steps -= kRegisterRows) {
    alignas(64) uint8_t filled[kBatchBytes];
    if (steps < kRegisterRows) {
      std::memset(filled, 0, sizeof(filled));
      std::memcpy(filled, rights.first, static_cast<size_t>(steps * kStepStride));
      rights.first = filled;
    }
    for (int step = 0; step < kRegisterRows; ++step) ahead.fetch_step();
    Block::template add_products<tiles::Bytes>(lefts, rights);
    lefts.first += kRegisterBytes;
    rights.first += kBatchBytes;
  }
  Block::store(out.sums);
}

// totals += sums * scales, as `multiply` of AVX-512 adds them.
template <int Rows>
void add_group(const Group& group, const Cell<8>* x, int64_t rows, const IntegerSums<Rows>& group_sums,
               Totals<Rows>& totals) {
  Float16x scales[kPanels];
  for (int panel = 0; panel < kPanels; ++panel) {
    scales[panel] = load(group.scales + panel * kPanelOutputs);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const __m512i correction = Dot<8>::start(x[row].corrections[0]).v;
    for (int panel = 0; panel < kPanels; ++panel) {
      const __m512i products = _mm512_load_si512(group_sums.sums[row][panel]);
      Float16x& total = totals.rows[row][0][panel];
      total = fma(Dot<8>::finish({_mm512_add_epi32(products, correction)}),
                  scales[panel] * broadcast(x[row].scale), total);
    }
  }
}

template <int Rows>
void store_rows(const Tile<8>& tile, int64_t rows, const Totals<Rows>& totals) {
  Tile<8> row_tile = tile;
  for (int64_t row = 0; row < rows; ++row) {
    store_totals<8, 1>(row_tile, totals.rows[row]);
    row_tile.out += tile.stride;
    if (row_tile.addend != nullptr) row_tile.addend += tile.stride;
  }
}

// While registers multiply a group, the sums of the one before are scaled and added.
template <int Rows>
void multiply_block(const Tile<8>& tile, int64_t rows) {
  Totals<Rows> totals;
  for (int64_t row = 0; row < rows; ++row) {
    for (Float16x& total : totals.rows[row][0]) total = zeros();
  }
  IntegerSums<Rows> sums[2];
  Ahead ahead = tile.ahead;
  RegisterBlock<Rows, kPanels>::configure(rows);
  const int64_t groups = ceil_div(tile.parts, kGroupParts);
  const auto add = [&](int64_t index) {
    add_group<Rows>(group_at(WeightFormat::kInt8, tile.weights, index), tile.x + index * rows, rows,
                    sums[index % 2], totals);
  };
  for (int64_t index = 0; index < groups; ++index) {
    const Group group = group_at(WeightFormat::kInt8, tile.weights, index);
    ahead.fetch_head();
    const int64_t parts = std::min<int64_t>(tile.parts - index * kGroupParts, kGroupParts);
    multiply_group<Rows>(group, tile.x + index * rows, parts, ahead, sums[index % 2]);
    if (index > 0) add(index - 1);
  }
  tiles::release();
  add(groups - 1);
  store_rows<Rows>(tile, rows, totals);
}

struct Registers {
  static constexpr int kTileRows = 2 * kRegisterRows;
  static constexpr bool kReadsInt4 = false;

  template <int Stored, int Bits>
  static void multiply(const Tile<Bits>& tile, int64_t rows) {
    static_assert(Stored == 8 && Bits == 8);
    if (rows <= kRegisterRows) {
      multiply_block<1>(tile, rows);
    } else {
      multiply_block<2>(tile, rows);
    }
  }
};

}  // namespace
}  // namespace integer

void linear_integer_many(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kInt8) {
    integer::multiply_all<integer::Registers, 8, 8>(call);
  } else {
    integer::multiply_all<integer::Registers, 4, 8>(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
