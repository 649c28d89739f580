// Packing weights into panels (layout.h), and reading single rows back for the embedding.
#include <cstring>

#include "layout.h"
#include "parallel.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Values that a weight of the panel has at an input: 0 outside the matrix.
template <class Value>
Value at(const PackCall& call, int64_t output, int64_t input) {
  const Weights& weights = call.weights;
  if (output >= weights.outputs || input >= weights.inputs) return Value{};
  return static_cast<const Value*>(call.source)[output * weights.inputs + input];
}

// Floats of either width: only their order changes.
template <class Value>
void pack_panel(const PackCall& call, int64_t index) {
  constexpr int inputs_per_step = kStepBytes / kPanelOutputs / sizeof(Value);
  auto* packed = reinterpret_cast<Value*>(panel(call.weights, index));
  const int64_t inputs = padded_inputs(call.weights);
  for (int64_t first = 0; first < inputs; first += inputs_per_step) {
    for (int lane = 0; lane < kPanelOutputs; ++lane) {
      for (int input = 0; input < inputs_per_step; ++input) {
        *packed++ = at<Value>(call, index * kPanelOutputs + lane, first + input);
      }
    }
  }
}

// The stored integers of one group, sixteen outputs at a time.
template <int Bits>
struct Quantised {
  static constexpr int kInputs =
      group_inputs(Bits == 8 ? WeightFormat::kInt8 : WeightFormat::kInt4);
  // Signed, before the offset is added.
  int8_t values[kInputs][kPanelOutputs];
};

// Round values / scale into [low, high]; returns the squared error of each lane.
template <int Inputs>
Float16x round_group(const Float16x (&values)[Inputs], Float16x scale, float low, float high,
                     int8_t (*rounded)[kPanelOutputs]) {
  Float16x error = zeros();
  const Float16x tiny = broadcast(1e-30f);
  // A scale of 0 belongs to zeros.
  const Float16x sign_safe = scale + tiny;
  for (int input = 0; input < Inputs; ++input) {
    const Float16x exact = values[input] / sign_safe;
    const Float16x whole =
        minimum(maximum(round_to_even(exact), broadcast(low)), broadcast(high));
    const Float16x difference = values[input] - whole * scale;
    error = fma(difference, difference, error);
    if (rounded != nullptr) store_bytes(rounded[input], whole);
  }
  return error;
}

// As float16 will hold it.
Float16x rounded_scale(Float16x scale) {
  Half narrow[kLanes];
  store(narrow, scale);
  return load(narrow);
}

// The scale of every lane with the least squared error, among the one that just covers the largest
// value on its own side (int4 reaches -8 but only 7) and ones that cut off a little of it.
template <int Inputs>
Float16x best_int4_scale(const Float16x (&values)[Inputs]) {
  Float16x low = zeros(), high = zeros();
  for (const Float16x& value : values) {
    low = minimum(low, value);
    high = maximum(high, value);
  }
  alignas(64) float best[kLanes], least[kLanes], lows[kLanes], highs[kLanes];
  store(lows, low);
  store(highs, high);
  for (int lane = 0; lane < kLanes; ++lane) {
    best[lane] = __builtin_nanf("");  // what stays where a value is no number
    least[lane] = 3.4e38f;
  }
  for (const float steps : {8.0f, 7.5f, 7.0f, 8.5f, 9.0f}) {
    alignas(64) float candidate[kLanes], errors[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const float extreme = -lows[lane] > highs[lane] ? lows[lane] : highs[lane];
      candidate[lane] = -extreme / steps;
    }
    const Float16x scale = rounded_scale(load(candidate));
    store(candidate, scale);
    store(errors, round_group(values, scale, -8, 7, nullptr));
    for (int lane = 0; lane < kLanes; ++lane) {
      if (errors[lane] < least[lane]) {
        least[lane] = errors[lane];
        best[lane] = candidate[lane];
      }
    }
  }
  return load(best);
}

template <int Inputs>
Float16x int8_scale(const Float16x (&values)[Inputs]) {
  Float16x greatest = zeros();
  for (const Float16x& value : values) greatest = maximum(absolute(value), greatest);
  return rounded_scale(greatest * broadcast(1.0f / 127));
}

template <int Bits>
void store_group(const Quantised<Bits>& quantised, uint8_t* packed) {
  constexpr int offset = Dot<Bits>::kOffset;
  for (int first = 0; first < Quantised<Bits>::kInputs; first += Bits == 8 ? 4 : 8) {
    for (int lane = 0; lane < kPanelOutputs; ++lane) {
      for (int input = first; input < first + 4; ++input) {
        int stored = quantised.values[input][lane] + offset;
        if constexpr (Bits == 4) stored |= (quantised.values[input + 4][lane] + offset) << 4;
        *packed++ = static_cast<uint8_t>(stored);
      }
    }
  }
}

template <int Bits>
void quantise_panel(const PackCall& call, int64_t index) {
  constexpr int inputs = Quantised<Bits>::kInputs;
  uint8_t* packed = panel(call.weights, index);
  Half* scales = panel_scales(call.weights, index);
  for (int64_t group = 0; group < num_groups(call.weights); ++group) {
    Float16x values[inputs];
    for (int input = 0; input < inputs; ++input) {
      float lanes[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = at<float>(call, index * kPanelOutputs + lane, group * inputs + input);
      }
      values[input] = load(lanes);
    }
    const Float16x scale = Bits == 8 ? int8_scale(values) : best_int4_scale(values);
    Quantised<Bits> quantised;
    round_group(values, scale, Bits == 8 ? -127 : -8, Bits == 8 ? 127 : 7, quantised.values);
    store_group(quantised, packed);
    store(scales, scale);
    packed += inputs * kPanelOutputs * Bits / 8;
    scales += kPanelOutputs;
  }
}

// One weight as a float.
float value_of(const Weights& weights, int64_t output, int64_t input) {
  const uint8_t* start = panel(weights, output / kPanelOutputs);
  const int64_t lane = output % kPanelOutputs, inputs = step_inputs(weights.format);
  const uint8_t* step = start + input / inputs * kStepBytes + lane * 4;
  const int64_t place = input % inputs;
  float value;
  switch (weights.format) {
    case WeightFormat::kFloat32:
      std::memcpy(&value, step, 4);
      return value;
    case WeightFormat::kBFloat16: {
      uint16_t bits;
      std::memcpy(&bits, step + 2 * place, 2);
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      std::memcpy(&value, &wide, 4);
      return value;
    }
    case WeightFormat::kInt8:
      return static_cast<float>(static_cast<int8_t>(step[place] - Dot<8>::kOffset));
    case WeightFormat::kInt4:
      return static_cast<float>((place < 4 ? step[place] & 15 : step[place - 4] >> 4) - 8);
  }
  return 0;
}

void read_row(const Weights& weights, int64_t output, float* out) {
  for (int64_t input = 0; input < weights.inputs; ++input) {
    out[input] = value_of(weights, output, input);
  }
  if (!has_scales(weights.format)) return;
  const Half* scales = panel_scales(weights, output / kPanelOutputs);
  const int64_t group_size = group_inputs(weights.format);
  for (int64_t group = 0; group < num_groups(weights); ++group) {
    float lanes[kLanes];
    store(lanes, load(scales + group * kPanelOutputs));
    const int64_t begin = group * group_size, end = begin + group_size;
    for (int64_t input = begin; input < end && input < weights.inputs; ++input) {
      out[input] *= lanes[output % kPanelOutputs];
    }
  }
}

void pack_one_panel(const PackCall& call, int64_t index) {
  switch (call.weights.format) {
    case WeightFormat::kFloat32: return pack_panel<float>(call, index);
    case WeightFormat::kBFloat16: return pack_panel<BFloat16>(call, index);
    case WeightFormat::kInt8: return quantise_panel<8>(call, index);
    case WeightFormat::kInt4: return quantise_panel<4>(call, index);
  }
}

}  // namespace

void pack(const PackCall& call) {
  share_out(call.num_threads, num_panels(call.weights), 1, [&](Range panels) {
    for (int64_t index = panels.begin; index < panels.end; ++index) pack_one_panel(call, index);
  });
}

void read_rows(const RowsCall& call) {
  const Weights& weights = call.weights;
  share_out_rows(call.num_threads, call.rows, weights.inputs, [&](int64_t row) {
    read_row(weights, call.ids[row], call.out + row * weights.inputs);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
