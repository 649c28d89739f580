// The halves of a layer, each of several operators in one call, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

Tensor multiply(const ProjectionFields& projection, const Tensor& x, const OptionalTensor& addend) {
  const auto& [weight, bias] = projection;
  TORCH_CHECK(weight != nullptr, "a projection needs a matrix");
  return weight->multiply(x, bias, addend);
}

}  // namespace

Tensor Operators::mlp(const Tensor& x, const std::optional<NormFields>& norm,
                      const ProjectionFields& up, const ActivationFields& activation,
                      const ProjectionFields& down, const OptionalTensor& addend) const {
  const Tensor normed = norm.has_value() ? this->norm(x, *norm, std::nullopt) : x;
  return multiply(down, activate(multiply(up, normed, std::nullopt), activation), addend);
}

Tensor Operators::project_and_store(const Tensor& x, const std::optional<NormFields>& norm,
                                    const ProjectionFields& qkv, const HeadFields& heads,
                                    const std::optional<RotationFields>& rotation,
                                    const OptionalTensor& temperature, const CacheFields& cache,
                                    const Tensor& slots) const {
  const Tensor normed = norm.has_value() ? this->norm(x, *norm, std::nullopt) : x;
  const Tensor projected = multiply(qkv, normed, std::nullopt);
  store_heads(projected, heads, rotation, temperature, cache, slots);
  const Tensor& keys = std::get<0>(cache);
  const int64_t head_dim = keys.size(3), num_heads = projected.size(1) / head_dim;
  return projected.view({projected.size(0), num_heads, head_dim})
      .narrow(1, 0, num_heads - 2 * keys.size(2));
}

Tensor Operators::attention(const Tensor& x, const std::optional<NormFields>& norm,
                            const ProjectionFields& qkv, const HeadFields& heads,
                            const std::optional<RotationFields>& rotation,
                            const OptionalTensor& temperature, const CacheFields& cache,
                            const Tensor& slots, const PlanFields& plan, const ScoreFields& scores,
                            const ProjectionFields& output, const OptionalTensor& addend) const {
  const Tensor query =
      project_and_store(x, norm, qkv, heads, rotation, temperature, cache, slots);
  const auto& [scale, soft_cap, alibi_slopes, distance_bias, sinks] = scores;
  const Tensor attended =
      attend(query, cache, plan, scale, soft_cap.value_or(0.0), alibi_slopes, distance_bias, sinks);
  return multiply(output, attended.flatten(1), addend);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
