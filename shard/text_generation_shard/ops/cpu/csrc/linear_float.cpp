// Products with float32 or bfloat16 weights; activations and sums are float32.
#include "linear_panels.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int kFloatTilePanels = kTilePanels;

// What steps with float32 activations have in common.
struct WithFloats {
  using Activation = float;
  static constexpr int kTileRows = kFloatTileRows, kTilePanels = kFloatTilePanels;
  static constexpr int kStreamedRows = 1;
  static constexpr int64_t kGroupBytes = 0;

  static Float16x spread(float activation) { return broadcast(activation); }
  static void pack(const TileInputs& tile, float* out) {
    for (int64_t input = 0; input < tile.inputs; ++input) {
      const bool is_real = input < tile.real_inputs;
      for (int64_t row = 0; row < tile.rows; ++row) {
        *out++ = is_real ? tile.x[row * tile.stride + input] : 0.0f;
      }
    }
  }
};

struct FloatStep : WithFloats {
  static constexpr int kInputs = 1, kActivations = 1, kPackedInputs = 1;

  Float16x weights;
  static FloatStep read(const uint8_t* p) { return {{}, load(reinterpret_cast<const float*>(p))}; }
  template <int Index>
  Float16x add(Float16x activation, Float16x sum) const {
    return fma(activation, weights, sum);
  }
};

struct BFloat16Step : WithFloats {
  static constexpr int kInputs = 2, kActivations = 2, kPackedInputs = 2;

  BFloat16Pairs pairs;
  static BFloat16Step read(const uint8_t* p) {
    return {{}, load_pairs(reinterpret_cast<const BFloat16*>(p))};
  }
  template <int Index>
  Float16x add(Float16x activation, Float16x sum) const {
    return fma(activation, Index == 0 ? firsts(pairs) : seconds(pairs), sum);
  }
};

}  // namespace

void linear_float(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kBFloat16) {
    multiply_all<BFloat16Step>(call);
  } else {
    multiply_all<FloatStep>(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
