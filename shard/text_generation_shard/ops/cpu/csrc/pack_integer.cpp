// Quantising weights to 8 or 4 bits (layout_integer.h), and reading single rows back.
#include <algorithm>

#include "layout_integer.h"
#include "pack.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Weights of sixteen outputs, one lane each, in one part or group.
using Part = Float16x[kPartInputs];
using Inputs = Float16x[kGroupInputs];

// The stored integers of one panel's group.
using Stored = int8_t[kGroupInputs][kPanelOutputs];

float widened(float value) { return value; }
float widened(BFloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

// What the inputs of a panel's group weigh: 0 outside the matrix. Returns 0 for each lane, or what
// is no number where a weight is none.
template <class Value>
Float16x read_group(const PackCall& call, int64_t panel, int64_t group, Inputs& values) {
  const int64_t first = group * kGroupInputs;
  const int64_t count = std::min<int64_t>(call.weights.inputs - first, kGroupInputs);
  alignas(64) float lanes[kGroupInputs][kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* row = static_cast<const Value*>(row_of(call, panel * kPanelOutputs + lane));
    for (int64_t i = 0; row != nullptr && i < count; ++i) lanes[i][lane] = widened(row[first + i]);
  }
  Float16x no_number = zeros();
  for (int i = 0; i < kGroupInputs; ++i) {
    values[i] = load(lanes[i]);
    no_number = fma(values[i], zeros(), no_number);
  }
  return no_number;
}

// value / scale, to the nearest whole number within [low, high].
Float16x rounded(Float16x value, Float16x scale, float low, float high) {
  // A scale of 0 belongs to zeros.
  const Float16x exact = value / (scale + broadcast(1e-30f));
  return minimum(maximum(round_to_even(exact), broadcast(low)), broadcast(high));
}

// The squared error of a part with this scale, in every lane.
Float16x int4_error(const Float16x* part, Float16x scale) {
  Float16x error = zeros();
  for (int i = 0; i < kPartInputs; ++i) {
    const Float16x difference = part[i] - rounded(part[i], scale, -8, 7) * scale;
    error = fma(difference, difference, error);
  }
  return error;
}

// Of several candidates in every lane, the one with the least error.
class Choice {
 public:
  void offer(Float16x candidate, Float16x error) {
    alignas(64) float candidates[kLanes], errors[kLanes];
    store(candidates, candidate);
    store(errors, error);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (is_first_ || errors[lane] < least_[lane]) {
        least_[lane] = errors[lane];
        best_[lane] = candidates[lane];
      }
    }
    is_first_ = false;
  }
  Float16x best() const { return load(best_); }

 private:
  alignas(64) float best_[kLanes], least_[kLanes];
  bool is_first_ = true;
};

// The scale that a part would have for itself: the one that just covers the largest value on its own
// side (int4 reaches -8 but only 7), or one that cuts off a little of it.
Float16x best_int4_scale(const Float16x* part) {
  Float16x low = zeros(), high = zeros();
  for (int i = 0; i < kPartInputs; ++i) {
    low = minimum(low, part[i]);
    high = maximum(high, part[i]);
  }
  alignas(64) float lows[kLanes], extremes[kLanes];
  store(lows, low);
  store(extremes, high);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (-lows[lane] > extremes[lane]) extremes[lane] = lows[lane];
  }
  Choice choice;
  for (const float steps : {8.0f, 7.5f, 7.0f, 8.5f, 9.0f}) {
    const Float16x scale = load(extremes) * broadcast(-1.0f / steps);
    choice.offer(scale, int4_error(part, scale));
  }
  return choice.best();
}

// The factor of a part: one of the two whole numbers beside its own scale.
Float16x best_factor(const Float16x* part, Float16x own_scale, Float16x group_scale) {
  const Float16x nearest = rounded(own_scale, group_scale, -kMaxFactor, kMaxFactor);
  Choice choice;
  for (const float step : {0.0f, -1.0f, 1.0f}) {
    const Float16x factor = minimum(
        maximum(nearest + broadcast(step), broadcast(-kMaxFactor)), broadcast(kMaxFactor));
    choice.offer(factor, int4_error(part, factor * group_scale));
  }
  return choice.best();
}

// As float16 will hold it.
Float16x rounded_scale(Float16x scale) {
  Half narrow[kLanes];
  store(narrow, scale);
  return load(narrow);
}

// Both return the scale, and store integers; int4 stores factors too, `kTileOutputs` apart.
Float16x quantise_int8(const Inputs& values, Stored& stored) {
  Float16x greatest = zeros();
  for (const Float16x& value : values) greatest = maximum(absolute(value), greatest);
  const Float16x scale = rounded_scale(greatest * broadcast(1.0f / 127));
  for (int i = 0; i < kGroupInputs; ++i) {
    store_bytes(stored[i], rounded(values[i], scale, -127, 127));
  }
  return scale;
}

Float16x quantise_int4(const Inputs& values, Stored& stored, int8_t* factors) {
  Float16x own[kGroupParts], greatest = zeros();
  for (int part = 0; part < kGroupParts; ++part) {
    own[part] = best_int4_scale(values + part * kPartInputs);
    greatest = maximum(absolute(own[part]), greatest);
  }
  const Float16x scale = rounded_scale(greatest * broadcast(1.0f / kMaxFactor));
  for (int part = 0; part < kGroupParts; ++part) {
    const int first = part * kPartInputs;
    const Float16x factor = best_factor(values + first, own[part], scale);
    store_bytes(factors + part * kTileOutputs, factor);
    for (int i = first; i < first + kPartInputs; ++i) {
      store_bytes(stored[i], rounded(values[i], factor * scale, -8, 7));
    }
  }
  return scale;
}

// Put the first `inputs` of them into the steps of a panel.
template <int Bits>
void store_steps(const Stored& stored, int64_t inputs, uint8_t* packed) {
  constexpr int offset = Dot<Bits>::kOffset;
  for (int first = 0; first < inputs; first += step_inputs(kFormat<Bits>)) {
    uint8_t* place = packed;
    for (int lane = 0; lane < kPanelOutputs; ++lane) {
      for (int input = first; input < first + 4; ++input) {
        int value = stored[input][lane] + offset;
        if constexpr (Bits == 4) value |= (stored[input + 4][lane] + offset) << 4;
        *place++ = static_cast<uint8_t>(value);
      }
    }
    packed += kIntegerTilePanels * kStepBytes;
  }
}

template <int Bits, class Value>
void quantise_panel(const PackCall& call, int64_t index) {
  uint8_t* tile = tile_at(call.weights, index / kIntegerTilePanels);
  const int64_t place = index % kIntegerTilePanels, lanes = place * kPanelOutputs;
  const int64_t inputs = num_parts(call.weights) * kPartInputs;
  for (int64_t begin = 0; begin < inputs; begin += kGroupInputs) {
    const Group group = group_at(kFormat<Bits>, tile, begin / kGroupInputs);
    Inputs values;
    Stored stored;
    const Float16x no_number = read_group<Value>(call, index, begin / kGroupInputs, values);
    const Float16x scale = Bits == 8 ? quantise_int8(values, stored)
                                     : quantise_int4(values, stored, group.factors + lanes);
    store_steps<Bits>(stored, std::min<int64_t>(inputs - begin, kGroupInputs),
                      group.weights + place * kStepBytes);
    store(group.scales + lanes, scale + no_number);
  }
}

template <int Bits>
void quantise(const PackCall& call) {
  const int64_t panels = num_tiles(call.weights) * kIntegerTilePanels;
  share_out(call.num_threads, panels, 1, [&](Range some) {
    for (int64_t index = some.begin; index < some.end; ++index) {
      if (call.is_bfloat16) {
        quantise_panel<Bits, BFloat16>(call, index);
      } else {
        quantise_panel<Bits, float>(call, index);
      }
    }
  });
}

// What is stored for one weight of a group, times its factor.
int whole_value(WeightFormat format, const Group& group, int64_t lane, int64_t input) {
  const int64_t inputs = step_inputs(format), place = input % inputs;
  const uint8_t* quad = group.weights + input / inputs * kIntegerTilePanels * kStepBytes + lane * 4;
  if (format == WeightFormat::kInt8) return static_cast<int8_t>(quad[place] - Dot<8>::kOffset);
  const int nibble = place < 4 ? quad[place] & 15 : quad[place - 4] >> 4;
  return (nibble - Dot<4>::kOffset) * group.factors[input / kPartInputs * kTileOutputs + lane];
}

}  // namespace

int64_t packed_integer_bytes(const Weights& weights) {
  return num_tiles(weights) * tile_bytes(weights);
}

void pack_integer(const PackCall& call) {
  return call.weights.format == WeightFormat::kInt8 ? quantise<8>(call) : quantise<4>(call);
}

void read_integer_row(const Weights& weights, int64_t output, float* out) {
  uint8_t* tile = tile_at(weights, output / kTileOutputs);
  const int64_t lane = output % kTileOutputs, first_lane = lane / kLanes * kLanes;
  for (int64_t begin = 0; begin < weights.inputs; begin += kGroupInputs) {
    const Group group = group_at(weights.format, tile, begin / kGroupInputs);
    float scales[kLanes];
    store(scales, load(group.scales + first_lane));
    const float scale = scales[lane - first_lane];
    const int64_t count = std::min<int64_t>(weights.inputs - begin, kGroupInputs);
    for (int64_t input = 0; input < count; ++input) {
      const int whole = whole_value(weights.format, group, lane, input);
      out[begin + input] = scale * static_cast<float>(whole);
    }
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
