// The kernels of one instruction set.
#include "linear.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

int64_t packed_bytes(const Weights& weights);
void pack(const PackCall& call);
void read_rows(const RowsCall& call);
void norm(const NormCall& call);
void activate(const ActivationCall& call);
void add(const AddCall& call);
void scale(const ScaleCall& call);
void rotation(const RotationCall& call);
void temperature(const TemperatureCall& call);
void route(const RouteCall& call);
void mix_experts(const MixCall& call);
void gate(const GateCall& call);
void choose_best(const BestCall& call);
void change_scores(const ChangeCall& call);
void sample(const SampleCall& call);
void candidates(const CandidatesCall& call);
void choose(const ChoiceCall& call);
void store_heads(const HeadsCall& call);
void attend(const AttentionCall& call);
void store_latent(const LatentCall& call);
void attend_latent(const LatentAttentionCall& call);
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
    .norm = norm,
    .activate = activate,
    .add = add,
    .scale = scale,
    .rotation = rotation,
    .temperature = temperature,
    .route = route,
    .mix_experts = mix_experts,
    .gate = gate,
    .choose_best = choose_best,
    .change_scores = change_scores,
    .sample = sample,
    .candidates = candidates,
    .choose = choose,
    .store_heads = store_heads,
    .attend = attend,
    .store_latent = store_latent,
    .attend_latent = attend_latent,
    .causal_conv = causal_conv,
    .selective_scan = selective_scan,
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
