// Products of int8 or int4 weights with activations quantised to int8.
//
// Activations are quantised symmetrically for each token and group of inputs, so that a row's result
// depends on that row alone. Within a group all arithmetic is exact, in integers; groups are added
// in float32, one after the other, whatever the number of rows. A row of results is therefore the
// same bits whatever else the batch holds.
//
// Activations are packed for each tile of rows, so that a tile reads them as one stream: for each
// group of inputs one cell for each row of the tile.
#include <algorithm>

#include "layout_integer.h"
#include "linear.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int kPanels = kIntegerTilePanels;
constexpr int kGroupQuads = kGroupInputs / 4;
constexpr int kPartQuads = kPartInputs / 4;
// How far ahead weights are fetched where there is a single tile of rows.
constexpr int kPrefetchBytes = 4096;
// Tiles of outputs that each tile of rows is multiplied with in turn. It stays in the first cache
// meanwhile, they in the second, and rows of results are written in pieces of some hundred bytes.
constexpr int kBlockTiles = 128 / kTileOutputs;
// Up to so many rows of int8 the processor's own fetching of the one stream keeps up, and is faster
// alone.
constexpr int kMaxStreamedRows = 4;

template <int Bits>
inline constexpr int kStepQuads = step_inputs(kFormat<Bits>) / 4;
template <int Bits>
inline constexpr int kCorrections = Dot<Bits>::kSumsParts ? kGroupParts : 1;

// Quantised activations of one row in one group.
template <int Bits>
struct Cell {
  typename Dot<Bits>::Quad quads[kGroupQuads];
  float scale;
  int32_t corrections[kCorrections<Bits>];  // see Dot
};

// One tile: rows times panels.
template <int Bits>
struct Tile {
  uint8_t* weights;
  int64_t parts;
  const Cell<Bits>* x;  // [groups][rows of the tile]
  const float* bias;    // [columns], or null
  const float* addend;  // [rows of the tile, columns], or null
  float* out;           // [rows of the tile, columns]
  int64_t stride, columns;  // of addend and out
  // Weights to fetch into the caches meanwhile, so many lines with every part.
  const uint8_t* ahead;
  int64_t ahead_lines;
};

template <int Bits, int Rows>
using Sums = typename Dot<Bits>::Sum[Rows][kPanels];

// Start every sum with correction `index` of its row.
template <int Bits, int Rows>
[[gnu::always_inline]] inline void start(const Cell<Bits>* x, int64_t index,
                                         Sums<Bits, Rows>& sums) {
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      sums[row][panel] = Dot<Bits>::start(x[row].corrections[index]);
    }
  }
}

// Add the products of one step's quad `Index`.
template <int Bits, int Index, int Rows>
[[gnu::always_inline]] inline void add_quad(const typename Dot<Bits>::Weights (&weights)[kPanels],
                                            const Cell<Bits>* x, int64_t quad,
                                            Sums<Bits, Rows>& sums) {
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      Dot<Bits>::template add<Index>(sums[row][panel], weights[panel], x[row].quads[quad + Index]);
    }
  }
}

template <int Bits>
using PanelFactors = typename Dot<Bits>::Factors[kPanels];

// Add the products of a part.
template <int Bits, int Rows>
[[gnu::always_inline]] inline void add_part(const uint8_t* weights,
                                            const PanelFactors<Bits>& factors, const Cell<Bits>* x,
                                            int64_t first_quad, Sums<Bits, Rows>& sums) {
  for (int quad = 0; quad < kPartQuads; quad += kStepQuads<Bits>) {
    typename Dot<Bits>::Weights loaded[kPanels];
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      loaded[panel] = Dot<Bits>::load_weights(weights + panel * kStepBytes, factors[panel]);
    }
    add_quad<Bits, 0, Rows>(loaded, x, first_quad + quad, sums);
    if constexpr (kStepQuads<Bits> == 2) add_quad<Bits, 1, Rows>(loaded, x, first_quad + quad, sums);
    weights += kPanels * kStepBytes;
  }
}

// The sums of the first `parts` parts of a group.
template <int Bits, int Rows>
[[gnu::always_inline]] inline void add_group(const Tile<Bits>& tile, const Group& group,
                                             const Cell<Bits>* x, int64_t parts,
                                             const uint8_t*& ahead, Sums<Bits, Rows>& sums) {
  constexpr bool sums_parts = Dot<Bits>::kSumsParts;
  if constexpr (!sums_parts) start<Bits, Rows>(x, 0, sums);
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t line = 0; line < tile.ahead_lines; ++line, ahead += kStepBytes) {
      __builtin_prefetch(ahead, 0, Bits == 8 ? 2 : 3);
    }
    PanelFactors<Bits> factors;
    for (int panel = 0; panel < kPanels; ++panel) {
      factors[panel] = Dot<Bits>::load_factors(group.factors + part * kTileOutputs +
                                               panel * kPanelOutputs);
    }
    const uint8_t* weights = group.weights + part * part_bytes(kFormat<Bits>);
    if constexpr (sums_parts) {
      Sums<Bits, Rows> part_sums;
      start<Bits, Rows>(x, part, part_sums);
      add_part<Bits, Rows>(weights, factors, x, part * kPartQuads, part_sums);
#pragma GCC unroll 8
      for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
        for (int panel = 0; panel < kPanels; ++panel) {
          Dot<Bits>::add_part(sums[row][panel], part_sums[row][panel], factors[panel]);
        }
      }
    } else {
      add_part<Bits, Rows>(weights, factors, x, part * kPartQuads, sums);
    }
  }
}

template <int Bits, int Rows>
void store_totals(const Tile<Bits>& tile, const Float16x (&totals)[Rows][kPanels]) {
  for (int panel = 0; panel < kPanels; ++panel) {
    const int64_t column = panel * kLanes, left = tile.columns - column;
    if (left <= 0) return;
    const int count = static_cast<int>(left < kLanes ? left : kLanes);
    const Float16x bias = tile.bias == nullptr ? zeros() : load_some(tile.bias + column, count);
    for (int row = 0; row < Rows; ++row) {
      const int64_t place = row * tile.stride + column;
      Float16x total = totals[row][panel] + bias;
      if (tile.addend != nullptr) total = total + load_some(tile.addend + place, count);
      store_some(tile.out + place, total, count);
    }
  }
}

template <int Bits, int Rows>
void multiply(const Tile<Bits>& tile) {
  Float16x totals[Rows][kPanels];
  for (auto& row : totals) {
    for (Float16x& total : row) total = zeros();
  }
  const uint8_t* ahead = tile.ahead;
  const Cell<Bits>* x = tile.x;
  for (int64_t first = 0; first < tile.parts; first += kGroupParts, x += Rows) {
    const Group group = group_at(kFormat<Bits>, tile.weights, first / kGroupParts);
    Sums<Bits, Rows> sums{};
    add_group<Bits, Rows>(tile, group, x, std::min<int64_t>(tile.parts - first, kGroupParts), ahead,
                          sums);
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      const Float16x scales = load(group.scales + panel * kPanelOutputs);
#pragma GCC unroll 8
      for (int row = 0; row < Rows; ++row) {
        const Float16x scale = scales * broadcast(x[row].scale);
        totals[row][panel] =
            fma(Dot<Bits>::finish(sums[row][panel]), scale, totals[row][panel]);
      }
    }
  }
  store_totals<Bits, Rows>(tile, totals);
}

// Choose the tile with `rows` rows.
template <int Bits, int Rows = kIntegerTileRows>
void multiply_rows(const Tile<Bits>& tile, int64_t rows) {
  if (rows == Rows) {
    multiply<Bits, Rows>(tile);
  } else if constexpr (Rows > 1) {
    multiply_rows<Bits, Rows - 1>(tile, rows);
  }
}

// The activations of all rows, quantised and packed.
template <int Bits>
class Activations {
 public:
  Activations(const LinearCall& call, Scratch& scratch)
      : call_(call), tiles_(call.rows, kIntegerTileRows), groups_(num_groups(call.weights)) {
    const int64_t bytes = call.rows * groups_ * static_cast<int64_t>(sizeof(Cell<Bits>));
    cells_ = static_cast<Cell<Bits>*>(scratch.reserve(bytes));
  }

  const RowTiles& tiles() const { return tiles_; }

  Cell<Bits>* tile(Range rows) const { return cells_ + rows.begin * groups_; }

  // Quantise one row into its tile.
  void pack(Range rows, int64_t row) const {
    Cell<Bits>* cell = tile(rows) + (row - rows.begin);
    for (int64_t group = 0; group < groups_; ++group, cell += rows.end - rows.begin) {
      quantise(row, group, *cell);
    }
  }

 private:
  // A group with a value that is no number has a scale that is none either.
  void quantise(int64_t row, int64_t group, Cell<Bits>& cell) const {
    constexpr int vectors = kGroupInputs / kLanes;
    Float16x values[vectors];
    Float16x greatest = zeros();
    Float16x no_number = zeros();
    const int64_t begin = group * kGroupInputs;
    for (int i = 0; i < vectors; ++i) {
      const int64_t left = call_.weights.inputs - begin - i * kLanes;
      const int count = static_cast<int>(left < 0 ? 0 : left < kLanes ? left : kLanes);
      values[i] = load_some(call_.x + row * call_.x_stride + begin + i * kLanes, count);
      greatest = maximum(absolute(values[i]), greatest);
      no_number = fma(values[i], zeros(), no_number);
    }
    const float limit = largest(greatest);
    const Float16x inverse = broadcast(limit > 0 ? 127.0f / limit : 0.0f);
    int8_t bytes[kGroupInputs];
    for (int i = 0; i < vectors; ++i) {
      store_bytes(bytes + i * kLanes, round_to_even(values[i] * inverse));
      Dot<Bits>::store_quads(cell.quads + i * kLanes / 4, bytes + i * kLanes);
    }
    cell.scale = limit / 127.0f + sum(no_number);
    constexpr int inputs = kGroupInputs / kCorrections<Bits>;
    for (int i = 0; i < kCorrections<Bits>; ++i) {
      cell.corrections[i] = Dot<Bits>::template correction<inputs>(bytes + i * inputs);
    }
  }

  const LinearCall& call_;
  RowTiles tiles_;
  int64_t groups_;
  Cell<Bits>* cells_;
};

// Which weights are fetched into the caches while others are used: how far ahead, and so many lines
// with every part.
struct Ahead {
  int64_t bytes, lines;
};
template <int Bits>
Ahead ahead_of(const LinearCall& call, int64_t row_tiles, int64_t block_tiles) {
  const int64_t bytes = tile_bytes(call.weights), parts = num_parts(call.weights);
  if (Bits == 8 && call.rows <= kMaxStreamedRows) return {0, 0};
  if (row_tiles == 1) return {kPrefetchBytes, ceil_div(bytes, parts * kStepBytes)};
  // The next block, evenly by all tiles of rows.
  return {block_tiles * bytes, ceil_div(bytes, row_tiles * parts * kStepBytes)};
}

template <int Bits>
void pack_all(const LinearCall& call, const Activations<Bits>& activations) {
  const RowTiles& tiles = activations.tiles();
  share_out_rows(call.num_threads, tiles.count, kIntegerTileRows * call.weights.inputs,
                 [&](int64_t index) {
                   const Range tile = tiles[index];
                   for (int64_t row = tile.begin; row < tile.end; ++row) {
                     activations.pack(tile, row);
                   }
                 });
}

// One tile of outputs times one of rows.
template <int Bits>
void multiply_tile(const LinearCall& call, const Activations<Bits>& activations, int64_t index,
                   int64_t row_tile, const Ahead& ahead) {
  const Range rows = activations.tiles()[row_tile];
  const int64_t column = index * kTileOutputs, stride = call.weights.outputs;
  const int64_t corner = rows.begin * stride + column;
  Tile<Bits> tile{};
  tile.weights = tile_at(call.weights, index);
  tile.parts = num_parts(call.weights);
  tile.x = activations.tile(rows);
  tile.bias = call.bias == nullptr ? nullptr : call.bias + column;
  tile.addend = call.addend == nullptr ? nullptr : call.addend + corner;
  tile.out = call.out + corner;
  tile.stride = stride;
  tile.columns = stride - column;
  tile.ahead_lines = ahead.lines;
  tile.ahead = tile.weights + ahead.bytes + row_tile * ahead.lines * tile.parts * kStepBytes;
  multiply_rows<Bits>(tile, rows.end - rows.begin);
}

// Some tiles of outputs times all rows.
template <int Bits>
void multiply_tiles(const LinearCall& call, const Activations<Bits>& activations, Range outputs) {
  const int64_t row_tiles = activations.tiles().count;
  for (int64_t first = outputs.begin; first < outputs.end; first += kBlockTiles) {
    const int64_t end = std::min<int64_t>(first + kBlockTiles, outputs.end);
    const Ahead ahead = ahead_of<Bits>(call, row_tiles, end - first);
    for (int64_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
      for (int64_t index = first; index < end; ++index) {
        multiply_tile(call, activations, index, row_tile, ahead);
      }
    }
  }
}

template <int Bits>
void multiply_all(const LinearCall& call) {
  static thread_local Scratch scratch;
  const Activations<Bits> activations(call, scratch);
  pack_all(call, activations);
  // A single row takes the least time: larger pieces. Blocks of tiles, but enough pieces for all.
  const int64_t tiles = num_tiles(call.weights);
  const int64_t most = call.rows == 1 ? 64 / kTileOutputs : kBlockTiles;
  const int64_t grain = std::clamp<int64_t>(tiles / (8 * call.num_threads), 1, most);
  share_out(call.num_threads, tiles, grain,
            [&](Range outputs) { multiply_tiles(call, activations, outputs); });
}

}  // namespace

void linear_integer(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kInt8) {
    multiply_all<8>(call);
  } else {
    multiply_all<4>(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
