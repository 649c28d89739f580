// Packing weights into panels (layout.h), and reading single rows back for the embedding.
#include "pack.h"

#include <algorithm>
#include <cstring>

#include "layout.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Steps that are moved for one row after another: their part of the panel stays in the first cache.
constexpr int64_t kBlockSteps = 64;

// Floats of either width: only their order changes. A row has four bytes in every step.
template <class Value>
void pack_panel(const PackCall& call, int64_t index) {
  constexpr int64_t inputs_per_step = 4 / sizeof(Value);
  auto* packed = reinterpret_cast<uint32_t*>(panel(call.weights, index));
  const int64_t whole = call.weights.inputs / inputs_per_step;
  const int64_t steps = padded_inputs(call.weights) / inputs_per_step;
  for (int64_t first = 0; first < steps; first += kBlockSteps) {
    const int64_t end = std::min(steps, first + kBlockSteps);
    for (int64_t lane = 0; lane < kPanelOutputs; ++lane) {
      const auto* row =
          static_cast<const uint8_t*>(row_of(call, index * kPanelOutputs + lane));
      uint32_t* out = packed + lane;
      for (int64_t step = first; step < end; ++step) {
        uint32_t values = 0;
        if (row != nullptr && step < whole) {
          std::memcpy(&values, row + 4 * step, 4);
        } else if (row != nullptr) {
          std::memcpy(&values, row + 4 * step, sizeof(Value));
        }
        out[step * kPanelOutputs] = values;
      }
    }
  }
}

// One weight as a float.
float value_of(const Weights& weights, int64_t output, int64_t input) {
  const int64_t inputs = step_inputs(weights.format);
  const uint8_t* step = panel(weights, output / kPanelOutputs) + input / inputs * kStepBytes +
                        output % kPanelOutputs * 4;
  float value;
  if (weights.format == WeightFormat::kFloat32) {
    std::memcpy(&value, step, 4);
  } else {
    uint16_t bits;
    std::memcpy(&bits, step + 2 * (input % inputs), 2);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    std::memcpy(&value, &wide, 4);
  }
  return value;
}

void read_row(const Weights& weights, int64_t output, float* out) {
  if (is_integer(weights.format)) return read_integer_row(weights, output, out);
  for (int64_t input = 0; input < weights.inputs; ++input) {
    out[input] = value_of(weights, output, input);
  }
}

}  // namespace

int64_t packed_bytes(const Weights& weights) {
  if (is_integer(weights.format)) return packed_integer_bytes(weights);
  return num_panels(weights) * panel_bytes(weights);
}

void pack(const PackCall& call) {
  if (is_integer(call.weights.format)) return pack_integer(call);
  share_out(call.num_threads, num_panels(call.weights), 1, [&](Range panels) {
    for (int64_t index = panels.begin; index < panels.end; ++index) {
      if (call.weights.format == WeightFormat::kFloat32) {
        pack_panel<float>(call, index);
      } else {
        pack_panel<BFloat16>(call, index);
      }
    }
  });
}

void read_rows(const RowsCall& call) {
  const Weights& weights = call.weights;
  share_out_rows(call.num_threads, call.rows, weights.inputs, [&](int64_t row) {
    read_row(weights, call.ids[row], call.out + row * weights.inputs);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
