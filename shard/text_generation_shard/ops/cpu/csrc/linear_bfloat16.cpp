// Products with bfloat16 weights by the processor's dot products of bfloat16 pairs: activations are
// rounded to bfloat16, sums are float32. All other products are those of AVX-512.
//
// Compiled for one instruction set alone, on top of AVX-512 with VNNI.
#include "linear_panels.h"
#include "round_pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

struct DotStep {
  using Activation = Pair;
  static constexpr int kInputs = 2, kActivations = 1, kPackedInputs = 2;
  static constexpr int kTileRows = 8, kTilePanels = 3, kStreamedRows = 1;
  static constexpr int64_t kGroupBytes = 0;
  static constexpr int kPairs = kLanes;  // that are rounded at one time

  __m512bh weights;
  static DotStep read(const uint8_t* p) {
    return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))};
  }
  static __m512bh spread(Pair pair) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(pair)));
  }
  template <int>
  Float16x add(__m512bh pair, Float16x sum) const {
    return {_mm512_dpbf16_ps(sum.v, weights, pair)};
  }

  static void pack(const TileInputs& tile, Pair* out) {
    for (int64_t first = 0; first < tile.inputs; first += 2 * kPairs) {
      const int64_t left = (tile.inputs - first) / 2, pairs = left < kPairs ? left : kPairs;
      for (int64_t row = 0; row < tile.rows; ++row) {
        Pair rounded[kPairs];
        round_pairs(tile.x + row * tile.stride + first, tile.real_inputs - first, rounded);
        for (int64_t pair = 0; pair < pairs; ++pair) out[pair * tile.rows + row] = rounded[pair];
      }
      out += kPairs * tile.rows;
    }
  }
};

}  // namespace

void linear(const LinearCall& call) {
  if (call.weights.format == WeightFormat::kBFloat16) {
    multiply_all<DotStep>(call);
  } else {
    avx512::kernels.linear.compute(call);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
