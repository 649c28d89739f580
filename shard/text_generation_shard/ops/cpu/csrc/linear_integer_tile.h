// One tile of registers of an integer product: a few rows times the panels that lie together.
//
// Within a group all arithmetic is exact, in integers; groups are added in float32, one after the
// other, whatever the number of rows. A row of results is therefore the same bits whatever else the
// batch holds.
#pragma once

#include <algorithm>

#include "linear_integer_rows.h"

namespace cpu_operators::CPU_OPERATORS_ISA::integer {

inline constexpr int kPanels = kIntegerTilePanels;
inline constexpr int kPartQuads = kPartInputs / 4;

template <int Bits>
inline constexpr int kStepQuads = step_inputs(kFormat<Bits>) / 4;

// Weights that are asked for while others are multiplied: with every step so many lines, the first
// of which moves on by so many bytes. Where they overlap, lines are asked for twice: with two tiles
// of rows that was 1.3 to 1.5 times as fast as asking once.
struct Ahead {
  const uint8_t* next;
  int64_t lines, bytes_per_step;
  int64_t bytes_per_head;  // between the steps of two groups

  [[gnu::always_inline]] void fetch_step() {
    for (int64_t line = 0; line < lines; ++line) {
      __builtin_prefetch(next + line * kStepBytes, 0, kToSecondCache);
    }
    next += bytes_per_step;
  }
  [[gnu::always_inline]] void fetch_head() {
    for (const uint8_t* end = next + bytes_per_head; next < end; next += kStepBytes) {
      __builtin_prefetch(next, 0, kToSecondCache);
    }
  }
};

template <int Bits>
struct Tile {
  uint8_t* weights;  // stored with so many bits, or fewer
  int64_t parts;
  const Cell<Bits>* x;  // [groups][rows of the tile]
  const float* bias;    // [columns], or null
  const float* addend;  // [rows of the tile, columns], or null
  float* out;           // [rows of the tile, columns]
  int64_t stride, columns;  // of addend and out
  Ahead ahead;
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

// How weights stored with `Stored` bits are read to be multiplied as if it were `Bits`: as they are,
template <int Stored, int Bits, class Int4 = Dot<4>>
struct Reader {
  using Weights = typename Dot<Bits>::Weights;

  explicit Reader(const int8_t*) {}
  Weights read(const uint8_t* p, int) const { return Dot<Bits>::load_weights(p); }
  template <int Index>
  static void add(typename Dot<Bits>::Sum& sum, const Weights& weights,
                  const typename Dot<Bits>::Quad& x) {
    Dot<Bits>::template add<Index>(sum, weights, x);
  }
};

// or int4 as int8 has it, in registers; `factors`: those of the part.
template <class Int4>
struct Reader<4, 8, Int4> {
  struct Weights {
    Dot<8>::Weights quads[2];
  };
  typename Int4::WideFactors factors[kPanels];

  explicit Reader(const int8_t* stored) {
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      factors[panel] = Int4::load_wide_factors(stored + panel * kPanelOutputs);
    }
  }
  Weights read(const uint8_t* p, int panel) const {
    const auto narrow = Int4::load_weights(p);
    return {{Int4::widened(narrow, factors[panel], 0), Int4::widened(narrow, factors[panel], 1)}};
  }
  template <int Index>
  static void add(Dot<8>::Sum& sum, const Weights& weights, const Dot<8>::Quad& x) {
    Dot<8>::add<0>(sum, weights.quads[Index], x);
  }
};

// Add the products of one step's quad `Index`.
template <int Stored, int Bits, int Index, int Rows>
[[gnu::always_inline]] inline void add_quad(
    const typename Reader<Stored, Bits>::Weights (&weights)[kPanels], const Cell<Bits>* x,
    int64_t quad, Sums<Bits, Rows>& sums) {
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      Reader<Stored, Bits>::template add<Index>(sums[row][panel], weights[panel],
                                                x[row].quads[quad + Index]);
    }
  }
}

// Add the products of one part.
template <int Stored, int Bits, int Rows>
[[gnu::always_inline]] inline void add_products(const Group& group, const Cell<Bits>* x,
                                                int64_t part, Ahead& ahead,
                                                Sums<Bits, Rows>& sums) {
  const int64_t first = part * kPartQuads;
  const uint8_t* weights = group.weights + part * part_bytes(kFormat<Stored>);
  const Reader<Stored, Bits> reader(group.factors + part * kTileOutputs);
#pragma GCC unroll kIntegerUnrolledSteps
  for (int quad = 0; quad < kPartQuads; quad += kStepQuads<Stored>) {
    ahead.fetch_step();
    typename Reader<Stored, Bits>::Weights loaded[kPanels];
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
      loaded[panel] = reader.read(weights + panel * kStepBytes, panel);
    }
    add_quad<Stored, Bits, 0, Rows>(loaded, x, first + quad, sums);
    if constexpr (kStepQuads<Stored> == 2) {
      add_quad<Stored, Bits, 1, Rows>(loaded, x, first + quad, sums);
    }
    weights += kPanels * kStepBytes;
  }
}

// Add the sums of a part, times its factors, to those of its group.
template <int Bits, int Rows>
[[gnu::always_inline]] inline void add_part(const Sums<Bits, Rows>& part, const int8_t* factors,
                                            Sums<Bits, Rows>& sums) {
#pragma GCC unroll 4
  for (int panel = 0; panel < kPanels; ++panel) {
    const auto loaded = Dot<Bits>::load_factors(factors + panel * kPanelOutputs);
#pragma GCC unroll 8
    for (int row = 0; row < Rows; ++row) {
      Dot<Bits>::add_part(sums[row][panel], part[row][panel], loaded);
    }
  }
}

// The sums of the first `parts` parts of a group.
template <int Stored, int Bits, int Rows>
[[gnu::always_inline]] inline void add_group(const Group& group, const Cell<Bits>* x, int64_t parts,
                                             Ahead& ahead, Sums<Bits, Rows>& sums) {
  constexpr bool sums_parts = Dot<Bits>::kSumsParts;
  if constexpr (!sums_parts) start<Bits, Rows>(x, 0, sums);
  for (int64_t part = 0; part < parts; ++part) {
    if constexpr (sums_parts) {
      Sums<Bits, Rows> own;
      start<Bits, Rows>(x, part, own);
      add_products<Stored, Bits, Rows>(group, x, part, ahead, own);
      add_part<Bits, Rows>(own, group.factors + part * kTileOutputs, sums);
    } else {
      add_products<Stored, Bits, Rows>(group, x, part, ahead, sums);
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

template <int Stored, int Bits, int Rows>
void multiply(const Tile<Bits>& tile) {
  Float16x totals[Rows][kPanels];
  for (auto& row : totals) {
    for (Float16x& total : row) total = zeros();
  }
  Ahead ahead = tile.ahead;
  const Cell<Bits>* x = tile.x;
  for (int64_t first = 0; first < tile.parts; first += kGroupParts, x += Rows) {
    const Group group = group_at(kFormat<Stored>, tile.weights, first / kGroupParts);
    ahead.fetch_head();
    Sums<Bits, Rows> sums{};
    const int64_t parts = std::min<int64_t>(tile.parts - first, kGroupParts);
    add_group<Stored, Bits, Rows>(group, x, parts, ahead, sums);
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

// A tile of int4 weights as int8 has them: products with either are the same integers.
template <class Int4 = Dot<4>>
void widen_tile(uint8_t* narrow, int64_t parts, uint8_t* wide) {
  constexpr int64_t step_bytes = kPanels * kStepBytes;
  for (int64_t index = 0; index < parts; ++index) {
    const int64_t part = index % kGroupParts;
    const Group from = group_at(WeightFormat::kInt4, narrow, index / kGroupParts);
    const Group to = group_at(WeightFormat::kInt8, wide, index / kGroupParts);
    if (part == 0) std::copy_n(from.scales, kTileOutputs, to.scales);
    for (int panel = 0; panel < kPanels; ++panel) {
      const auto factors =
          Int4::load_wide_factors(from.factors + part * kTileOutputs + panel * kPanelOutputs);
      const int64_t place = panel * kStepBytes;
      const uint8_t* in = from.weights + part * part_bytes(WeightFormat::kInt4) + place;
      uint8_t* out = to.weights + part * part_bytes(WeightFormat::kInt8) + place;
      for (int quad = 0; quad < kPartQuads; quad += 2, in += step_bytes, out += 2 * step_bytes) {
        const auto weights = Int4::load_weights(in);
        Int4::widen(weights, factors, 0, out);
        Int4::widen(weights, factors, 1, out + step_bytes);
      }
    }
  }
}

// Choose the tile with `rows` rows.
template <int Stored, int Bits, int Rows = kIntegerTileRows>
void multiply_rows(const Tile<Bits>& tile, int64_t rows) {
  if (rows == Rows) {
    multiply<Stored, Bits, Rows>(tile);
  } else if constexpr (Rows > 1) {
    multiply_rows<Stored, Bits, Rows - 1>(tile, rows);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA::integer
