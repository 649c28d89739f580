// Products with float32 or bfloat16 weights; activations and sums are float32.
//
// A tile of registers holds a few rows of sums for one to four panels. Activations of several rows
// are packed so that a tile reads them as one stream, and the inputs are cut into blocks, so that
// what a tile reads stays near:
//
//   x [rows, inputs]  ->  blocks of inputs [ tiles of rows [ inputs of the block ][ rows of tile ] ]
#include "linear.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kBlockInputs = 4096;
// A single row is bound by memory: more panels, more streams.
constexpr int kRowPanels = 2 * kTilePanels;
// How far ahead of its use a single row asks for memory.
constexpr int kPrefetchBytes = 1024;

// One tile: rows times panels.
struct Tile {
  const uint8_t* panels;
  int64_t panel_bytes;
  const float* x;  // [steps * inputs per step][rows of the tile]
  int64_t steps;
  const float* bias;   // [columns], or null
  const float* start;  // [rows of the tile, columns] that the sums begin with, or null
  float* out;          // [rows of the tile, columns]
  int64_t stride, columns;  // of start and out
};

struct FloatStep {
  static constexpr int kInputs = 1;

  Float16x weights;
  static FloatStep read(const uint8_t* p) {
    return {load(reinterpret_cast<const float*>(p))};
  }
  template <int Input>
  Float16x at() const {
    return weights;
  }
};

struct BFloat16Step {
  static constexpr int kInputs = 2;

  BFloat16Pairs pairs;
  static BFloat16Step read(const uint8_t* p) {
    return {load_pairs(reinterpret_cast<const BFloat16*>(p))};
  }
  template <int Input>
  Float16x at() const {
    return Input == 0 ? firsts(pairs) : seconds(pairs);
  }
};

template <int Rows, int Panels>
using Sums = Float16x[Rows][Panels];

inline int columns_of_panel(const Tile& tile, int panel) {
  const int64_t left = tile.columns - panel * kLanes;
  return static_cast<int>(left < kLanes ? left : kLanes);
}

template <int Rows, int Panels>
void begin_sums(const Tile& tile, Sums<Rows, Panels>& sums) {
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

template <int Rows, int Panels>
void store_sums(const Tile& tile, const Sums<Rows, Panels>& sums) {
  for (int row = 0; row < Rows; ++row) {
    for (int panel = 0; panel < Panels; ++panel) {
      float* out = tile.out + row * tile.stride + panel * kLanes;
      const int columns = columns_of_panel(tile, panel);
      if (columns == kLanes) {
        store(out, sums[row][panel]);
      } else {
        store_first(out, sums[row][panel], columns);
      }
    }
  }
}

// Add the products of input `Input` of a step.
template <int Input, class Step, int Rows, int Panels>
[[gnu::always_inline]] inline void add_input(const Step (&steps)[Panels], const float* x,
                                             Sums<Rows, Panels>& sums) {
  Float16x weights[Panels];
  for (int panel = 0; panel < Panels; ++panel) {
    weights[panel] = steps[panel].template at<Input>();
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
    const Float16x activation = broadcast(x[Input * Rows + row]);
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      sums[row][panel] = fma(activation, weights[panel], sums[row][panel]);
    }
  }
}

template <class Step, int Rows, int Panels>
void multiply(const Tile& tile) {
  Sums<Rows, Panels> sums;
  begin_sums<Rows, Panels>(tile, sums);
  const uint8_t* weights = tile.panels;
  const float* x = tile.x;
  for (int64_t step = 0; step < tile.steps; ++step) {
    Step steps[Panels];
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      const uint8_t* here = weights + panel * tile.panel_bytes;
      if constexpr (Rows == 1) __builtin_prefetch(here + kPrefetchBytes);
      steps[panel] = Step::read(here);
    }
    add_input<0, Step, Rows, Panels>(steps, x, sums);
    if constexpr (Step::kInputs == 2) add_input<1, Step, Rows, Panels>(steps, x, sums);
    weights += kStepBytes;
    x += Step::kInputs * Rows;
  }
  store_sums<Rows, Panels>(tile, sums);
}

// Choose the tile with `rows` rows and `Panels` panels.
template <class Step, int Panels, int Rows = kFloatTileRows>
void multiply_rows(const Tile& tile, int64_t rows) {
  if (rows == Rows) {
    multiply<Step, Rows, Panels>(tile);
  } else if constexpr (Rows > 1) {
    multiply_rows<Step, Panels, Rows - 1>(tile, rows);
  }
}

template <class Step>
void multiply_any(const Tile& tile, int64_t rows, int64_t panels) {
  if (rows == 1 && panels == 4) {
    multiply<Step, 1, 4>(tile);
  } else if (rows == 1 && panels == 3) {
    multiply<Step, 1, 3>(tile);
  } else if (rows == 1 && panels == 2) {
    multiply<Step, 1, 2>(tile);
  } else if (panels == kTilePanels) {
    multiply_rows<Step, kTilePanels>(tile, rows);
  } else {
    multiply_rows<Step, 1>(tile, rows);
  }
}

// x, packed.
class Activations {
 public:
  Activations(const LinearCall& call, int64_t inputs, float* memory)
      : call_(call), tiles_(call.rows, kFloatTileRows), inputs_(inputs), memory_(memory) {}

  const RowTiles& tiles() const { return tiles_; }
  int64_t num_blocks() const { return ceil_div(inputs_, kBlockInputs); }
  Range block(int64_t index) const {
    const int64_t end = (index + 1) * kBlockInputs;
    return {index * kBlockInputs, end < inputs_ ? end : inputs_};
  }
  // [inputs of the block][rows of the tile]
  float* tile(Range block, Range rows) const {
    return memory_ + block.begin * call_.rows + (block.end - block.begin) * rows.begin;
  }
  void pack(Range block, Range rows) const {
    float* packed = tile(block, rows);
    for (int64_t input = block.begin; input < block.end; ++input) {
      const bool is_real = input < call_.weights.inputs;
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        *packed++ = is_real ? call_.x[row * call_.x_stride + input] : 0.0f;
      }
    }
  }

 private:
  const LinearCall& call_;
  RowTiles tiles_;
  int64_t inputs_;  // filled up
  float* memory_;
};

void pack_all(const LinearCall& call, const Activations& activations) {
  const int64_t tiles = activations.tiles().count;
  share_out_rows(call.num_threads, tiles * activations.num_blocks(),
                 kFloatTileRows * (call.weights.inputs / activations.num_blocks()),
                 [&](int64_t part) {
                   activations.pack(activations.block(part / tiles),
                                    activations.tiles()[part % tiles]);
                 });
}

// Some panels times all rows.
template <class Step>
void multiply_panels(const LinearCall& call, const Activations& activations, Range panels) {
  const Weights& weights = call.weights;
  const int64_t max_panels = call.rows == 1 ? kRowPanels : kTilePanels;
  for (int64_t index = 0; index < activations.num_blocks(); ++index) {
    const Range block = activations.block(index);
    for (int64_t first = panels.begin; first < panels.end; first += max_panels) {
      const int64_t count = first + max_panels < panels.end ? max_panels : panels.end - first;
      const int64_t column = first * kPanelOutputs;
      Tile tile{};
      tile.panels = panel(weights, first) + block.begin / Step::kInputs * kStepBytes;
      tile.panel_bytes = panel_bytes(weights);
      tile.steps = (block.end - block.begin) / Step::kInputs;
      const bool is_first = index == 0;
      // Later blocks go on with the sums of the ones before.
      const float* start = is_first ? call.addend : call.out;
      tile.bias = is_first && call.bias != nullptr ? call.bias + column : nullptr;
      tile.stride = weights.outputs;
      tile.columns = weights.outputs - column;
      for (int64_t row_tile = 0; row_tile < activations.tiles().count; ++row_tile) {
        const Range rows = activations.tiles()[row_tile];
        tile.x = activations.tile(block, rows);
        const int64_t corner = rows.begin * tile.stride + column;
        tile.start = start == nullptr ? nullptr : start + corner;
        tile.out = call.out + corner;
        multiply_any<Step>(tile, rows.end - rows.begin, count);
      }
    }
  }
}

template <class Step>
void multiply_all(const LinearCall& call) {
  static thread_local Scratch scratch;
  const int64_t inputs = padded_inputs(call.weights);
  // A single row is packed as it stands.
  const bool is_packed = call.rows == 1 && inputs == call.weights.inputs;
  auto* memory = is_packed ? const_cast<float*>(call.x)
                           : static_cast<float*>(scratch.reserve(call.rows * inputs * 4));
  const Activations activations(call, inputs, memory);
  if (!is_packed) pack_all(call, activations);
  const int64_t grain = call.rows == 1 ? kRowPanels : kTilePanels;
  share_out(call.num_threads, num_panels(call.weights), grain,
            [&](Range panels) { multiply_panels<Step>(call, activations, panels); });
}

}  // namespace

void linear_float(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kBFloat16) {
    multiply_all<BFloat16Step>(call);
  } else {
    multiply_all<FloatStep>(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
