// Products by the tile registers of a processor with AMX: of bfloat16 weights all, of int8 and int4
// weights those of many rows. All other products are those of AVX-512.
//
// bfloat16: the registers add in another order than AVX-512's dot products do, so a single row takes
// them too: a row of results is the same bits whatever else the batch holds. They take 16 cycles for
// 1 KiB of weights, of which memory sends a core some hundred bytes meanwhile.
//
// Compiled for one instruction set alone, on top of AVX-512 with VNNI and bfloat16.
#include <cstring>

#include "linear_amx.h"
#include "linear_panels.h"
#include "round_pairs.h"
#include "tile_registers.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Steps of 64 bytes that are multiplied at one time: rows of a register.
constexpr int64_t kBatch = kRegisterRows;
constexpr int64_t kBatchBytes = kBatch * kStepBytes;

// A step of panels, of which registers take sixteen at one time. Activations are packed as
// [batches of steps][rows of the tile][16 pairs].
struct RegisterStep {
  using Activation = Pair;
  static constexpr int kInputs = 2, kActivations = 1, kPackedInputs = 2 * kBatch;
  static constexpr int kTileRows = 2 * kRegisterRows, kTilePanels = 2;
  // Of a single register of rows, four of sums are left.
  static constexpr int kStreamedRows = kRegisterRows;
  static constexpr int64_t kGroupBytes = 512 << 10;  // beside activations in the second cache

  static void pack(const TileInputs& tile, Pair* out) {
    for (int64_t first = 0; first < tile.inputs; first += kPackedInputs) {
      for (int64_t row = 0; row < tile.rows; ++row, out += kBatch) {
        round_pairs(tile.x + row * tile.stride + first, tile.real_inputs - first, out);
      }
    }
  }
  static void multiply(const Tile<RegisterStep>& tile, int64_t rows, int64_t panels);
};

using PairTile = Tile<RegisterStep>;

PairTile row_of(const PairTile& tile, int64_t row) {
  PairTile one = tile;
  if (one.start != nullptr) one.start += row * tile.stride;
  one.out += row * tile.stride;
  return one;
}

void fetch_ahead(const PairTile& tile, const uint8_t* weights, int panel) {
  const int64_t ahead = tile.ahead[panel];
  if (ahead == 0) return;
  const uint8_t* next = weights + panel * tile.panel_bytes + ahead;
  for (int64_t line = 0; line < kBatchBytes; line += kStepBytes) {
    __builtin_prefetch(next + line, 0, kToSecondCache);
  }
}

template <int Rows, int Panels>
void multiply_block(const PairTile& tile, int64_t rows) {
  using Block = RegisterBlock<Rows, Panels>;
  alignas(64) Sums<1, Panels> sums[Rows * kRegisterRows];
  for (int64_t row = 0; row < rows; ++row) {
    begin_sums<RegisterStep, 1, Panels>(row_of(tile, row), sums[row]);
  }
  Block::configure(rows);
  Block::load(sums);
  const uint8_t* weights = tile.panels;
  Operand x{reinterpret_cast<const uint8_t*>(tile.x), kRegisterRows * kRegisterBytes,
            kRegisterBytes};
  const auto add = [&](const Operand& rights) {
    Block::template add_products<tiles::Pairs>(x, rights);
    x.first += rows * kRegisterBytes;
  };
  for (int64_t batch = 0; batch < tile.steps / kBatch; ++batch, weights += kBatchBytes) {
    for (int panel = 0; panel < Panels; ++panel) fetch_ahead(tile, weights, panel);
    add({weights, tile.panel_bytes, kStepBytes});
  }
  if (const int64_t rest = tile.steps % kBatch; rest > 0) {
    alignas(64) uint8_t filled[Panels][kBatchBytes] = {};
    for (int panel = 0; panel < Panels; ++panel) {
      std::memcpy(filled[panel], weights + panel * tile.panel_bytes,
                  static_cast<size_t>(rest * kStepBytes));
    }
    add({filled[0], kBatchBytes, kStepBytes});
  }
  Block::store(sums);
  tiles::release();
  for (int64_t row = 0; row < rows; ++row) {
    store_sums<RegisterStep, 1, Panels>(row_of(tile, row), sums[row]);
  }
}

// Choose the block with `panels` panels.
template <int Rows, int Panels>
void multiply_panels(const PairTile& tile, int64_t rows, int64_t panels) {
  if (panels == Panels) return multiply_block<Rows, Panels>(tile, rows);
  if constexpr (Panels > 1) multiply_panels<Rows, Panels - 1>(tile, rows, panels);
}

void RegisterStep::multiply(const PairTile& tile, int64_t rows, int64_t panels) {
  if (rows <= kRegisterRows) {
    multiply_panels<1, kRowPanels>(tile, rows, panels);
  } else {
    multiply_panels<2, kTilePanels>(tile, rows, panels);
  }
}

}  // namespace

void linear(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kBFloat16) {
    multiply_all<RegisterStep>(call);
  } else if (is_integer(call.weights.format) && call.rows > kMaxVectorRows) {
    linear_integer_many(call);
  } else {
    avx512::kernels.linear.compute(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
