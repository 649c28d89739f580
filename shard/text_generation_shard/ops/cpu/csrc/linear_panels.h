// Products with float32 or bfloat16 weights: which tiles are computed when.
#pragma once

#include <algorithm>

#include "linear_tiles.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int64_t kMaxGroupPanels = 8;

// How far ahead row tile `index` of `count` asks for weights, of panels from `first` on in a group of
// `group`. What the first tiles read, the later ones find near, and have time to ask for what comes
// after it.
template <class Step>
void look_ahead(Tile<Step>& tile, int64_t rows, int64_t index, int64_t count, int64_t first,
                int64_t group) {
  const int64_t panels = tile_panels<Step>(rows);
  for (int64_t panel = 0; panel < panels; ++panel) {
    if (count == 1 && panels == 1) {
      tile.ahead[panel] = 0;  // one stream, which the processor itself foresees
    } else if (count == 1) {
      tile.ahead[panel] = prefetch_bytes(rows);
    } else {
      tile.ahead[panel] = (first + panel) % count == index ? group * tile.panel_bytes : 0;
    }
  }
}

// Panels whose weights stay near until all rows were multiplied with them. Activations come from
// farther away for each group: a larger one where arithmetic is so fast that it would wait for them.
template <class Step>
int64_t group_panels(const LinearCall& call) {
  const int64_t panels = tile_panels<Step>(call.rows);
  if (Step::kGroupBytes == 0 || call.rows <= Step::kTileRows) return panels;
  const int64_t bytes = std::min(panel_bytes(call.weights), kBlockInputs / Step::kInputs * kStepBytes);
  const int64_t enough = num_panels(call.weights) / (4 * call.num_threads);
  const int64_t most = std::min(std::min(Step::kGroupBytes / bytes, kMaxGroupPanels), enough);
  return std::max(panels, most / panels * panels);
}

// A call's product.
template <class Step>
class PanelProduct {
 public:
  PanelProduct(const LinearCall& call, const Activations<Step>& activations)
      : call_(call), activations_(activations), group_(group_panels<Step>(call)) {}

  int64_t group() const { return group_; }

  // Some panels times all rows.
  void multiply(Range panels) const {
    for (int64_t index = 0; index < activations_.num_blocks(); ++index) {
      for (int64_t first = panels.begin; first < panels.end; first += group_) {
        multiply_group(index, {first, std::min(first + group_, panels.end)});
      }
    }
  }

 private:
  void multiply_group(int64_t block, Range panels) const {
    const int64_t max_panels = tile_panels<Step>(call_.rows);
    for (int64_t row_tile = 0; row_tile < activations_.tiles().count; ++row_tile) {
      for (int64_t first = panels.begin; first < panels.end; first += max_panels) {
        const Range some{first, std::min(first + max_panels, panels.end)};
        multiply_tile(block, row_tile, some, first - panels.begin);
      }
    }
  }

  // Panels that are in their group from `place` on.
  void multiply_tile(int64_t index, int64_t row_tile, Range panels, int64_t place) const {
    const Weights& weights = call_.weights;
    const RowTiles& row_tiles = activations_.tiles();
    const Range block = activations_.block(index), rows = row_tiles[row_tile];
    const int64_t column = panels.begin * kPanelOutputs;
    const int64_t corner = rows.begin * call_.out_stride + column;
    const bool is_first = index == 0;
    // Later blocks go on with the sums of the ones before.
    const float* start = is_first ? call_.addend : call_.out;
    Tile<Step> tile{};
    tile.panels = panel(weights, panels.begin) + block.begin / Step::kInputs * kStepBytes;
    tile.panel_bytes = panel_bytes(weights);
    tile.x = activations_.tile(block, rows);
    tile.steps = (std::min(block.end, padded_inputs(weights)) - block.begin) / Step::kInputs;
    tile.bias = is_first && call_.bias != nullptr ? call_.bias + column : nullptr;
    tile.start = start == nullptr ? nullptr : start + corner;
    tile.out = call_.out + corner;
    tile.stride = call_.out_stride;
    tile.columns = weights.outputs - column;
    look_ahead(tile, call_.rows, row_tile, row_tiles.count, place, group_);
    const int64_t num_rows = rows.end - rows.begin, num_panels = panels.end - panels.begin;
    if constexpr (requires { &Step::multiply; }) {
      Step::multiply(tile, num_rows, num_panels);
    } else {
      multiply_any<Step>(tile, num_rows, num_panels);
    }
  }

  const LinearCall& call_;
  const Activations<Step>& activations_;
  int64_t group_;
};

template <class Step>
void multiply_all(const LinearCall& call) {
  static thread_local Scratch scratch;
  const Activations<Step> activations(call, scratch);
  const PanelProduct<Step> product(call, activations);
  share_out(call.num_threads, num_panels(call.weights), product.group(),
            [&](Range panels) { product.multiply(panels); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
