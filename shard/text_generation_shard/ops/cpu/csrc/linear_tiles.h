// Products with float32 or bfloat16 weights, for every way to multiply them; sums are float32.
//
// A tile of registers holds a few rows of sums for one to four panels. Activations of several rows
// are packed so that a tile reads them as one stream, and the inputs are cut into blocks, so that
// what a tile reads stays near:
//
//   x [rows, inputs]  ->  blocks of inputs [ tiles of rows [ inputs of the block ][ rows of tile ] ]
//
// Every sum adds its inputs one step after the other, whatever the number of rows: a row of results
// is the same bits whatever else the batch holds.
//
// A step is a type that knows how 64 bytes of a panel are multiplied:
//
//   Activation    what is packed of a row: one input, or several that are multiplied together
//   kInputs, kActivations     so many of both in a step
//   kPackedInputs     activations are filled up with zeros to a multiple of so many inputs
//   kTileRows, kTilePanels    rows and panels of a full tile
//   kStreamedRows     up to so many rows, products are bound by memory
//   kGroupBytes       of weights that all rows are multiplied with, at least a tile's panels
//   read(p)       the weights
//   spread(activation)        in all lanes
//   add<Index>(spread, sum)   sum + the products with the step's activation `Index`
//   pack(rows, out)           a tile's activations, [steps * kActivations][rows of the tile]
//
// or that multiplies a tile in its own way, with `multiply(tile, rows, panels)`, and packs for that.
#pragma once

#include <type_traits>

#include "linear.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int64_t kBlockInputs = 4096;
// Where memory is what takes time: more panels, more streams.
inline constexpr int kRowPanels = 2 * kTilePanels;
// How far ahead of its use a tile asks for weights that no tile has read before. The more rows, the
// longer a step takes and the less the processor foresees itself.
constexpr int64_t prefetch_bytes(int64_t rows) { return rows <= 4 ? 1024 : 512 * rows; }

// One tile: rows times panels.
template <class Step>
struct Tile {
  const uint8_t* panels;
  int64_t panel_bytes;
  const typename Step::Activation* x;  // [steps * activations per step][rows of the tile]
  int64_t steps;
  const float* bias;   // [columns], or null
  const float* start;  // [rows of the tile, columns] that the sums begin with, or null
  float* out;          // [rows of the tile, columns]
  int64_t stride, columns;  // of start and out
  int64_t ahead[kRowPanels];  // by panel, in bytes: how far ahead to ask for weights
};

template <int Rows, int Panels>
using Sums = Float16x[Rows][Panels];

template <class Step>
int columns_of_panel(const Tile<Step>& tile, int panel) {
  const int64_t left = tile.columns - panel * kLanes;
  return static_cast<int>(left < kLanes ? left : kLanes);
}

template <class Step, int Rows, int Panels>
void begin_sums(const Tile<Step>& tile, Sums<Rows, Panels>& sums) {
  for (int row = 0; row < Rows; ++row) {
    for (int panel = 0; panel < Panels; ++panel) {
      const int columns = columns_of_panel(tile, panel);
      Float16x sum = zeros();
      if (tile.bias != nullptr) sum = load_first(tile.bias + panel * kLanes, columns);
      if (tile.start != nullptr) {
        sum = sum + load_first(tile.start + row * tile.stride + panel * kLanes, columns);
      }
      sums[row][panel] = sum;
    }
  }
}

template <class Step, int Rows, int Panels>
void store_sums(const Tile<Step>& tile, const Sums<Rows, Panels>& sums) {
  for (int row = 0; row < Rows; ++row) {
    for (int panel = 0; panel < Panels; ++panel) {
      store_some(tile.out + row * tile.stride + panel * kLanes, sums[row][panel],
                 columns_of_panel(tile, panel));
    }
  }
}

// Add the products with activation `Index` of a step.
template <int Index, class Step, int Rows, int Panels>
[[gnu::always_inline]] inline void add_products(const Step (&steps)[Panels],
                                                const typename Step::Activation* x,
                                                Sums<Rows, Panels>& sums) {
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
    const auto activation = Step::spread(x[Index * Rows + row]);
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      sums[row][panel] = steps[panel].template add<Index>(activation, sums[row][panel]);
    }
  }
}

// Add the products of one step.
template <class Step, int Rows, int Panels>
[[gnu::always_inline]] inline void add_step(const Tile<Step>& tile, const uint8_t* weights,
                                            const typename Step::Activation* x,
                                            Sums<Rows, Panels>& sums) {
  Step steps[Panels];
#pragma GCC unroll 4
  for (int panel = 0; panel < Panels; ++panel) {
    const uint8_t* here = weights + panel * tile.panel_bytes;
    __builtin_prefetch(here + tile.ahead[panel], 0, kToSecondCache);
    steps[panel] = Step::read(here);
  }
  add_products<0, Step, Rows, Panels>(steps, x, sums);
  if constexpr (Step::kActivations == 2) add_products<1, Step, Rows, Panels>(steps, x, sums);
}

// A function of its own: inlined, its sums have left their registers where a caller was changed.
template <class Step, int Rows, int Panels>
[[gnu::noinline]] void multiply(const Tile<Step>& tile) {
  Sums<Rows, Panels> sums;
  begin_sums<Step, Rows, Panels>(tile, sums);
  const uint8_t* weights = tile.panels;
  const typename Step::Activation* x = tile.x;
  int64_t step = 0;
  for (int row = 0; row < Rows; ++row) {
    // Where the sums will go is asked for row by row: all at once would hold up the weights.
    for (int panel = 0; panel < Panels; ++panel) {
      __builtin_prefetch(tile.out + row * tile.stride + panel * kLanes);
    }
    for (const int64_t end = (row + 1) * tile.steps / Rows; step < end; ++step) {
      add_step<Step, Rows, Panels>(tile, weights, x, sums);
      weights += kStepBytes;
      x += Step::kActivations * Rows;
    }
  }
  store_sums<Step, Rows, Panels>(tile, sums);
}

// Panels of a full tile of so many rows.
template <class Step>
constexpr int tile_panels(int64_t rows) {
  static_assert(Step::kTilePanels <= kRowPanels);
  return rows <= Step::kStreamedRows ? kRowPanels : Step::kTilePanels;
}

// Choose the tile with `rows` rows and `panels` panels.
template <class Step, int Rows = Step::kTileRows, int Panels = tile_panels<Step>(Rows)>
void multiply_any(const Tile<Step>& tile, int64_t rows, int64_t panels) {
  if (rows < Rows) {
    if constexpr (Rows > 1) multiply_any<Step, Rows - 1>(tile, rows, panels);
  } else if (panels < Panels) {
    if constexpr (Panels > 1) multiply_any<Step, Rows, Panels - 1>(tile, rows, panels);
  } else {
    multiply<Step, Rows, Panels>(tile);
  }
}

// What a tile has of x: some inputs of some rows.
struct TileInputs {
  const float* x;  // of the first row, at the first input
  int64_t stride;  // from one row to the next
  int64_t rows;
  int64_t inputs;  // with those that fill up
  int64_t real_inputs;
};

// x, packed.
template <class Step>
class Activations {
 public:
  using Activation = typename Step::Activation;

  Activations(const LinearCall& call, Scratch& scratch)
      : call_(call), tiles_(call.rows, Step::kTileRows),
        inputs_(ceil_div(call.weights.inputs, Step::kPackedInputs) * Step::kPackedInputs) {
    // A single row of floats is packed as it stands.
    if constexpr (std::is_same_v<Activation, float>) {
      if (call.rows == 1 && inputs_ == call.weights.inputs) {
        memory_ = const_cast<float*>(call.x);
        return;
      }
    }
    constexpr auto size = static_cast<int64_t>(sizeof(Activation));
    memory_ = static_cast<Activation*>(scratch.reserve(place(call.rows * inputs_) * size));
    pack();
  }

  const RowTiles& tiles() const { return tiles_; }
  int64_t num_blocks() const { return ceil_div(inputs_, kBlockInputs); }
  Range block(int64_t index) const {
    const int64_t end = (index + 1) * kBlockInputs;
    return {index * kBlockInputs, end < inputs_ ? end : inputs_};
  }
  // [activations of the block][rows of the tile]
  Activation* tile(Range block, Range rows) const {
    return memory_ + place(block.begin * call_.rows + (block.end - block.begin) * rows.begin);
  }

 private:
  // Where so many inputs end.
  static int64_t place(int64_t inputs) { return inputs / Step::kInputs * Step::kActivations; }

  void pack() const {
    share_out_rows(call_.num_threads, tiles_.count * num_blocks(),
                   Step::kTileRows * (inputs_ / num_blocks()), [&](int64_t part) {
                     pack_tile(block(part / tiles_.count), tiles_[part % tiles_.count]);
                   });
  }
  void pack_tile(Range block, Range rows) const {
    const int64_t left = call_.weights.inputs - block.begin, inputs = block.end - block.begin;
    Step::pack({.x = call_.x + rows.begin * call_.x_stride + block.begin,
                .stride = call_.x_stride,
                .rows = rows.end - rows.begin,
                .inputs = inputs,
                .real_inputs = left < inputs ? left : inputs},
               tile(block, rows));
  }

  const LinearCall& call_;
  RowTiles tiles_;
  int64_t inputs_;  // filled up
  Activation* memory_;
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
