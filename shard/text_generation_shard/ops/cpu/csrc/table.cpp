// The kernels of one instruction set.
#include "linear.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

int64_t packed_bytes(const Weights& weights);
void pack(const PackCall& call);
void read_rows(const RowsCall& call);
void rms_norm(const NormCall& call);
void silu_mul(const GateCall& call);
void choose_best(const BestCall& call);
void mask_scores(const MaskCall& call);
void sample(const SampleCall& call);
void rotate_and_store(const RotaryCall& call);
void attend(const AttentionCall& call);
void causal_conv(const ConvCall& call);
void selective_scan(const ScanCall& call);

namespace {

void linear(const LinearCall& call) {
  if (is_integer(call.weights.format)) {
    linear_integer(call);
  } else {
    linear_float(call);
  }
}

}  // namespace

const Kernels kernels = {
    .packed_bytes = packed_bytes,
    .pack = pack,
    .linear = linear,
    .rows = read_rows,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .choose_best = choose_best,
    .mask_scores = mask_scores,
    .sample = sample,
    .rotate_and_store = rotate_and_store,
    .attend = attend,
    .causal_conv = causal_conv,
    .selective_scan = selective_scan,
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
