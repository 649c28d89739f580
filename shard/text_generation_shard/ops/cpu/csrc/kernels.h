// The table in which every instruction set offers its kernels.
//
// All code but this header and those of the calls lives in a namespace of its instruction set: an
// inline function that two object files share would be linked once, for a processor that may not be
// this one.
#pragma once

#include "calls_attention.h"
#include "calls_layers.h"
#include "calls_sampling.h"

namespace cpu_operators {

// A kernel that the binding calls, so that recording.h can write down the call and repeat it. Kernels
// use `compute` alone.
template <class Call>
struct Kernel {
  constexpr Kernel(void (*kernel)(const Call&)) : compute(kernel) {}
  void operator()(const Call& call) const;

  void (*compute)(const Call&);
};

struct Kernels {
  // Whether products with bfloat16 weights round their activations to bfloat16.
  bool rounds_to_bfloat16 = false;
  int64_t (*packed_bytes)(const Weights&);  // that `panels` must have room for
  void (*pack)(const PackCall&);
  Kernel<LinearCall> linear;
  Kernel<RowsCall> rows;
  Kernel<NormCall> norm;
  Kernel<ActivationCall> activate;
  Kernel<AddCall> add;
  Kernel<ScaleCall> scale;
  Kernel<RotationCall> rotation;
  Kernel<TemperatureCall> temperature;
  Kernel<RouteCall> route;
  Kernel<MixCall> mix_experts;
  Kernel<GateCall> gate;
  Kernel<BestCall> choose_best;
  Kernel<ChangeCall> change_scores;
  Kernel<SampleCall> sample;
  Kernel<CandidatesCall> candidates;
  Kernel<ChoiceCall> choose;
  Kernel<HeadsCall> store_heads;
  Kernel<AttentionCall> attend;
  Kernel<LatentCall> store_latent;
  Kernel<LatentAttentionCall> attend_latent;
  Kernel<ConvCall> causal_conv;
  Kernel<ScanCall> selective_scan;
};

namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
// What AVX-512 with bfloat16 does in another way than `avx512`.
namespace avx512_bf16 {
void linear(const LinearCall& call);
void attend(const AttentionCall& call);
}
// And what a processor with AMX does in another way than that.
namespace amx {
void linear(const LinearCall& call);
}

}  // namespace cpu_operators
