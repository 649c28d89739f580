// Activations of integer products, quantised to int8.
//
// They are quantised symmetrically for each token and group of inputs, so that a row's result
// depends on that row alone, and packed for each tile of rows, so that a tile reads them as one
// stream: for each group of inputs one cell for each row of the tile.
#pragma once

#include "layout_integer.h"
#include "linear.h"

namespace cpu_operators::CPU_OPERATORS_ISA::integer {

inline constexpr int kGroupQuads = kGroupInputs / 4;
template <int Bits>
inline constexpr int kCorrections = Dot<Bits>::kSumsParts ? kGroupParts : 1;

// Quantised activations of one row in one group.
template <int Bits>
struct Cell {
  typename Dot<Bits>::Quad quads[kGroupQuads];
  float scale;
  int32_t corrections[kCorrections<Bits>];  // see Dot
};

// The activations of all rows, to be multiplied with weights of so many bits.
template <int Bits>
class Activations {
 public:
  Activations(const LinearCall& call, int max_tile, Scratch& scratch)
      : call_(call), tiles_(call.rows, max_tile), groups_(num_groups(call.weights)) {
    const int64_t bytes = call.rows * groups_ * static_cast<int64_t>(sizeof(Cell<Bits>));
    cells_ = static_cast<Cell<Bits>*>(scratch.reserve(bytes));
    share_out_rows(call.num_threads, call.rows, call.weights.inputs,
                   [&](int64_t row) { quantise_row(row); });
  }

  const RowTiles& tiles() const { return tiles_; }

  // [groups][rows of the tile]
  Cell<Bits>* tile(Range rows) const { return cells_ + rows.begin * groups_; }

 private:
  static constexpr int kVectors = kGroupInputs / kLanes;
  using Inputs = Float16x[kVectors];

  void quantise_row(int64_t row) const {
    const Range rows = tiles_[tiles_.of(row)];
    Cell<Bits>* cell = tile(rows) + (row - rows.begin);
    for (int64_t group = 0; group < groups_; ++group, cell += rows.end - rows.begin) {
      Inputs inputs;
      read(row, group * kGroupInputs, inputs);
      quantise(inputs, *cell);
    }
  }

  // The inputs of a group, zeros behind the last.
  void read(int64_t row, int64_t begin, Inputs& inputs) const {
    const float* x = call_.x + row * call_.x_stride + begin;
    const int64_t left = call_.weights.inputs - begin;
    for (int i = 0; i < kVectors; ++i) {
      const int64_t count = left - i * kLanes;
      if (count >= kLanes) {
        inputs[i] = load(x + i * kLanes);
      } else {
        inputs[i] = count > 0 ? load_first(x + i * kLanes, static_cast<int>(count)) : zeros();
      }
    }
  }

  // A group with a value that is no number has a scale that is none either.
  static void quantise(const Inputs& inputs, Cell<Bits>& cell) {
    Float16x greatest = zeros(), no_number = zeros();
    for (const Float16x& some : inputs) {
      greatest = maximum(absolute(some), greatest);
      no_number = fma(some, zeros(), no_number);
    }
    const float limit = largest(greatest);
    const Float16x inverse = broadcast(limit > 0 ? 127.0f / limit : 0.0f);
    constexpr int vectors = kVectors / kCorrections<Bits>;
    for (int part = 0; part < kCorrections<Bits>; ++part) {
      Float16x total = zeros();
      for (int i = part * vectors; i < (part + 1) * vectors; ++i) {
        const Float16x whole = round_to_even(inputs[i] * inverse);
        Dot<Bits>::store_quads(cell.quads + i * kLanes / 4, whole);
        total = total + whole;
      }
      cell.corrections[part] = Dot<Bits>::correction(sum(total));
    }
    cell.scale = limit / 127.0f + sum(no_number);
  }

  const LinearCall& call_;
  RowTiles tiles_;
  int64_t groups_;
  Cell<Bits>* cells_;
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA::integer
