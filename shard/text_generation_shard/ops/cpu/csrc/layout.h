// How packed weights lie in memory.
//
// Sixteen outputs (rows of the matrix) form a panel; inside a panel the inputs follow each other, so
// that a product reads one stream and fills sixteen lanes with sixteen outputs:
//
//   matrix [outputs, inputs]          panels
//     out 0  | a0 a1 a2 ..              panel 0: out 0..15    input 0, input 1, ...
//     out 1  | b0 b1 b2 ..              panel 1: out 16..31   ...
//
// The last panel is filled up with zero rows, the inputs with zeros to a whole step:
//
//   float32    1 input    [16]          a0 b0 c0 ..
//   bfloat16   2 inputs   [16][2]       a0 a1  b0 b1  c0 c1 ..
//   int8       4 inputs   [16][4]       a0 a1 a2 a3  b0 b1 b2 b3 ..
//   int4       8 inputs   [16][4]       (a0 a4) (a1 a5) (a2 a6) (a3 a7)  (b0 b4) ..   (low high)
//
// Every step takes 64 bytes. Panels of floats follow each other; how those of integers do, and where
// their scales are, says layout_integer.h.
#pragma once

#include "kernels.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int kPanelOutputs = 16;
inline constexpr int kStepBytes = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Inputs of one step of 64 bytes.
constexpr int step_inputs(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32: return 1;
    case WeightFormat::kBFloat16: return 2;
    case WeightFormat::kInt8: return 4;
    case WeightFormat::kInt4: return 8;
  }
  return 0;
}

constexpr bool is_integer(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// Panels of floats.
inline int64_t num_panels(const Weights& weights) {
  return ceil_div(weights.outputs, kPanelOutputs);
}
inline int64_t padded_inputs(const Weights& weights) {
  const int64_t step = step_inputs(weights.format);
  return ceil_div(weights.inputs, step) * step;
}
inline int64_t panel_bytes(const Weights& weights) {
  return padded_inputs(weights) / step_inputs(weights.format) * kStepBytes;
}
inline uint8_t* panel(const Weights& weights, int64_t index) {
  return static_cast<uint8_t*>(weights.panels) + index * panel_bytes(weights);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
