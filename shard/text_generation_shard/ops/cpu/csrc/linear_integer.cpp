// Products of int8 or int4 weights with activations quantised to int8.
//
// Activations are quantised symmetrically for each token and group of inputs, so that a row's result
// depends on that row alone. Within a group all arithmetic is exact, in integers; groups are added
// in float32, one after the other, whatever the number of rows. A row of results is therefore the
// same bits whatever else the batch holds.
//
// Activations are packed for each tile of rows, so that a tile reads them as one stream:
//
//   quads        [groups][quads of a group][rows of tile], four activations each
//   scales       [groups][rows of tile], float32
//   corrections  [groups][rows of tile], int32: minus the offset of the stored weights times the
//                sum of the group's activations
#include "linear.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// A single row is bound by memory: more panels, more streams.
constexpr int kRowPanels = 2 * kTilePanels;
constexpr int kPrefetchBytes = 1024;

template <int Bits>
inline constexpr WeightFormat kFormat = Bits == 8 ? WeightFormat::kInt8 : WeightFormat::kInt4;
template <int Bits>
inline constexpr int kGroup = group_inputs(kFormat<Bits>);
template <int Bits>
inline constexpr int kGroupQuads = kGroup<Bits> / 4;
template <int Bits>
inline constexpr int kStepQuads = step_inputs(kFormat<Bits>) / 4;

// Quantised activations of one tile of rows.
template <int Bits>
struct PackedRows {
  typename Dot<Bits>::Quad* quads;
  float* scales;
  int32_t* corrections;
};

// One tile: rows times panels.
template <int Bits>
struct Tile {
  const uint8_t* panels;
  int64_t panel_bytes;
  const Half* scales;
  int64_t groups;
  PackedRows<Bits> x;
  const float* bias;    // [columns], or null
  const float* addend;  // [rows of the tile, columns], or null
  float* out;           // [rows of the tile, columns]
  int64_t stride, columns;  // of addend and out
};

template <int Bits, int Rows, int Panels>
using GroupSums = typename Dot<Bits>::Sum[Rows][Panels];

// Add the products of one step's quad `Index`.
template <int Bits, int Index, int Rows, int Panels>
[[gnu::always_inline]] inline void add_quad(const typename Dot<Bits>::Weights (&weights)[Panels],
                                            const typename Dot<Bits>::Quad* quads,
                                            GroupSums<Bits, Rows, Panels>& sums) {
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      Dot<Bits>::template add<Index>(sums[row][panel], weights[panel], quads + row);
    }
  }
}

// The sums of one group.
template <int Bits, int Rows, int Panels>
[[gnu::always_inline]] inline void add_group(const uint8_t* weights, int64_t panel_bytes,
                                             const typename Dot<Bits>::Quad* quads,
                                             GroupSums<Bits, Rows, Panels>& sums) {
  for (int quad = 0; quad < kGroupQuads<Bits>; quad += kStepQuads<Bits>) {
    typename Dot<Bits>::Weights loaded[Panels];
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      const uint8_t* here = weights + panel * panel_bytes;
      if constexpr (Rows == 1) __builtin_prefetch(here + kPrefetchBytes);
      loaded[panel] = Dot<Bits>::load_weights(here);
    }
    add_quad<Bits, 0, Rows, Panels>(loaded, quads, sums);
    if constexpr (kStepQuads<Bits> == 2) {
      add_quad<Bits, 1, Rows, Panels>(loaded, quads + Rows, sums);
    }
    weights += kStepBytes;
    quads += kStepQuads<Bits> * Rows;
  }
}

template <int Bits, int Rows, int Panels>
void store_totals(const Tile<Bits>& tile, const Float16x (&totals)[Rows][Panels]) {
  for (int panel = 0; panel < Panels; ++panel) {
    const int64_t column = panel * kLanes, left = tile.columns - column;
    const int count = static_cast<int>(left < kLanes ? left : kLanes);
    const Float16x bias =
        tile.bias == nullptr ? zeros() : load_first(tile.bias + column, count);
    for (int row = 0; row < Rows; ++row) {
      const int64_t place = row * tile.stride + column;
      Float16x total = totals[row][panel] + bias;
      if (tile.addend != nullptr) total = total + load_first(tile.addend + place, count);
      if (count == kLanes) {
        store(tile.out + place, total);
      } else {
        store_first(tile.out + place, total, count);
      }
    }
  }
}

template <int Bits, int Rows, int Panels>
void multiply(const Tile<Bits>& tile) {
  Float16x totals[Rows][Panels];
  for (auto& row : totals) {
    for (Float16x& total : row) total = zeros();
  }
  constexpr int64_t group_bytes = kGroupQuads<Bits> / kStepQuads<Bits> * kStepBytes;
  for (int64_t group = 0; group < tile.groups; ++group) {
    GroupSums<Bits, Rows, Panels> sums;
    add_group<Bits, Rows, Panels>(tile.panels + group * group_bytes, tile.panel_bytes,
                                  tile.x.quads + group * kGroupQuads<Bits> * Rows, sums);
    const float* scales = tile.x.scales + group * Rows;
    const int32_t* corrections = tile.x.corrections + group * Rows;
#pragma GCC unroll 4
    for (int panel = 0; panel < Panels; ++panel) {
      const Float16x weight_scales =
          load(tile.scales + (panel * tile.groups + group) * kPanelOutputs);
#pragma GCC unroll 8
      for (int row = 0; row < Rows; ++row) {
        const Float16x sum = Dot<Bits>::finish(sums[row][panel], corrections[row]);
        totals[row][panel] = fma(sum, weight_scales * broadcast(scales[row]), totals[row][panel]);
      }
    }
  }
  store_totals<Bits, Rows, Panels>(tile, totals);
}

// Choose the tile with `rows` rows and `Panels` panels.
template <int Bits, int Panels, int Rows = kIntegerTileRows>
void multiply_rows(const Tile<Bits>& tile, int64_t rows) {
  if (rows == Rows) {
    multiply<Bits, Rows, Panels>(tile);
  } else if constexpr (Rows > 1) {
    multiply_rows<Bits, Panels, Rows - 1>(tile, rows);
  }
}

template <int Bits>
void multiply_any(const Tile<Bits>& tile, int64_t rows, int64_t panels) {
  if (rows == 1 && panels == 4) {
    multiply<Bits, 1, 4>(tile);
  } else if (rows == 1 && panels == 3) {
    multiply<Bits, 1, 3>(tile);
  } else if (rows == 1 && panels == 2) {
    multiply<Bits, 1, 2>(tile);
  } else if (panels == kTilePanels) {
    multiply_rows<Bits, kTilePanels>(tile, rows);
  } else {
    multiply_rows<Bits, 1>(tile, rows);
  }
}

// The activations of all rows, quantised and packed.
template <int Bits>
class Activations {
 public:
  using Quad = typename Dot<Bits>::Quad;

  Activations(const LinearCall& call, Scratch& scratch)
      : call_(call), tiles_(call.rows, kIntegerTileRows), groups_(num_groups(call.weights)) {
    const int64_t cells = call.rows * groups_;
    const int64_t quad_bytes = cells * kGroupQuads<Bits> * static_cast<int64_t>(sizeof(Quad));
    auto* memory = static_cast<uint8_t*>(scratch.reserve(quad_bytes + cells * 8));
    all_.quads = reinterpret_cast<Quad*>(memory);
    all_.scales = reinterpret_cast<float*>(memory + quad_bytes);
    all_.corrections = reinterpret_cast<int32_t*>(all_.scales + cells);
  }

  const RowTiles& tiles() const { return tiles_; }

  PackedRows<Bits> tile(Range rows) const {
    const int64_t cell = rows.begin * groups_;
    return {all_.quads + cell * kGroupQuads<Bits>, all_.scales + cell, all_.corrections + cell};
  }

  // Quantise one row into its tile.
  void pack(Range rows, int64_t row) const {
    const PackedRows<Bits> packed = tile(rows);
    const int64_t tile_rows = rows.end - rows.begin, place = row - rows.begin;
    for (int64_t group = 0; group < groups_; ++group) {
      int8_t bytes[kGroup<Bits>];
      const float scale = quantise(row, group, bytes, packed.corrections[group * tile_rows + place]);
      packed.scales[group * tile_rows + place] = scale;
      Quad* quads = packed.quads + group * kGroupQuads<Bits> * tile_rows + place;
      for (int quad = 0; quad < kGroupQuads<Bits>; ++quad) {
        quads[quad * tile_rows] = Dot<Bits>::make_quad(bytes + 4 * quad);
      }
    }
  }

 private:
  // One group of one row: bytes, scale and correction. A group with a value that is no number has
  // a scale that is none either.
  float quantise(int64_t row, int64_t group, int8_t* bytes, int32_t& correction) const {
    Float16x values[kGroup<Bits> / kLanes];
    Float16x greatest = zeros();
    Float16x no_number = zeros();
    const int64_t begin = group * kGroup<Bits>;
    for (int i = 0; i < kGroup<Bits> / kLanes; ++i) {
      const int64_t left = call_.weights.inputs - begin - i * kLanes;
      const int count = static_cast<int>(left < 0 ? 0 : left < kLanes ? left : kLanes);
      const float* x = call_.x + row * call_.x_stride + begin + i * kLanes;
      values[i] = count == kLanes ? load(x) : load_first(x, count);
      greatest = maximum(absolute(values[i]), greatest);
      no_number = fma(values[i], zeros(), no_number);
    }
    const float limit = largest(greatest);
    const Float16x inverse = broadcast(limit > 0 ? 127.0f / limit : 0.0f);
    int32_t total = 0;
    for (int i = 0; i < kGroup<Bits> / kLanes; ++i) {
      total += store_bytes(bytes + i * kLanes, round_to_even(values[i] * inverse));
    }
    correction = -Dot<Bits>::kOffset * total;
    return limit / 127.0f + sum(no_number);
  }

  const LinearCall& call_;
  RowTiles tiles_;
  int64_t groups_;
  PackedRows<Bits> all_;
};

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

// Some panels times all rows.
template <int Bits>
void multiply_panels(const LinearCall& call, const Activations<Bits>& activations, Range panels) {
  const Weights& weights = call.weights;
  const int64_t max_panels = call.rows == 1 ? kRowPanels : kTilePanels;
  for (int64_t first = panels.begin; first < panels.end; first += max_panels) {
    const int64_t count = first + max_panels < panels.end ? max_panels : panels.end - first;
    const int64_t column = first * kPanelOutputs;
    Tile<Bits> tile{};
    tile.panels = panel(weights, first);
    tile.panel_bytes = panel_bytes(weights);
    tile.scales = panel_scales(weights, first);
    tile.groups = num_groups(weights);
    tile.bias = call.bias == nullptr ? nullptr : call.bias + column;
    tile.stride = weights.outputs;
    tile.columns = weights.outputs - column;
    for (int64_t index = 0; index < activations.tiles().count; ++index) {
      const Range rows = activations.tiles()[index];
      tile.x = activations.tile(rows);
      const int64_t corner = rows.begin * tile.stride + column;
      tile.addend = call.addend == nullptr ? nullptr : call.addend + corner;
      tile.out = call.out + corner;
      multiply_any<Bits>(tile, rows.end - rows.begin, count);
    }
  }
}

template <int Bits>
void multiply_all(const LinearCall& call) {
  static thread_local Scratch scratch;
  const Activations<Bits> activations(call, scratch);
  pack_all(call, activations);
  const int64_t grain = call.rows == 1 ? kRowPanels : kTilePanels;
  share_out(call.num_threads, num_panels(call.weights), grain,
            [&](Range panels) { multiply_panels(call, activations, panels); });
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
