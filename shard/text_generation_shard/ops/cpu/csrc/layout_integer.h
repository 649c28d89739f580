// How packed weights of 8 or 4 bits lie in memory, and what they mean.
//
// They are quantised symmetrically in groups of 128 inputs that share a scale, one for each output.
// A group of int4 has four parts of 32 inputs with a whole number of at most 15 each, the factor:
//
//   int8   weight = scale * stored               stored within [-127, 127]
//   int4   weight = scale * (factor * stored)    stored within [-8, 7]
//
// so that what a group multiplies fits 8 bits in both, and its products add up exactly.
//
// The panels that one tile of registers computes lie together and form one stream, group by group:
//
//   scales    [panels][16], float16
//   factors   [parts][panels][16], int8, for int4 alone
//   weights   [steps][panels], 64 bytes each
//
// The inputs are filled up with zeros to a whole part, so the last group may be a short one; the
// outputs are filled up to a whole tile.
#pragma once

#include "dot.h"
#include "layout.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int kGroupInputs = 128;
inline constexpr int kPartInputs = 32;
inline constexpr int kGroupParts = kGroupInputs / kPartInputs;
// factor * -8 leaves room for nothing more in a byte.
inline constexpr int kMaxFactor = 15;
inline constexpr int kTileOutputs = kIntegerTilePanels * kPanelOutputs;

template <int Bits>
inline constexpr WeightFormat kFormat = Bits == 8 ? WeightFormat::kInt8 : WeightFormat::kInt4;

constexpr int64_t scale_bytes() { return kTileOutputs * sizeof(Half); }
constexpr int64_t head_bytes(WeightFormat format) {
  return scale_bytes() + (format == WeightFormat::kInt4 ? kGroupParts * kTileOutputs : 0);
}
constexpr int64_t part_bytes(WeightFormat format) {
  return kPartInputs / step_inputs(format) * kIntegerTilePanels * kStepBytes;
}
constexpr int64_t group_bytes(WeightFormat format) {
  return head_bytes(format) + kGroupParts * part_bytes(format);
}

inline int64_t num_tiles(const Weights& weights) { return ceil_div(weights.outputs, kTileOutputs); }
inline int64_t num_parts(const Weights& weights) { return ceil_div(weights.inputs, kPartInputs); }
inline int64_t num_groups(const Weights& weights) { return ceil_div(weights.inputs, kGroupInputs); }
inline int64_t tile_bytes(const Weights& weights) {
  return num_groups(weights) * head_bytes(weights.format) +
         num_parts(weights) * part_bytes(weights.format);
}
inline uint8_t* tile_at(const Weights& weights, int64_t index) {
  return static_cast<uint8_t*>(weights.panels) + index * tile_bytes(weights);
}

// One group of a tile.
struct Group {
  Half* scales;
  int8_t* factors;
  uint8_t* weights;
};
inline Group group_at(WeightFormat format, uint8_t* tile, int64_t index) {
  uint8_t* start = tile + index * group_bytes(format);
  return {reinterpret_cast<Half*>(start), reinterpret_cast<int8_t*>(start + scale_bytes()),
          start + head_bytes(format)};
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
