// Mixtures of experts, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

Scoring scoring_named(const std::string& name) {
  if (name == "softmax") return Scoring::kSoftmax;
  if (name == "sigmoid") return Scoring::kSigmoid;
  TORCH_CHECK(name == "sparse_mixer", "unknown scoring ", name);
  return Scoring::kSparseMixer;
}

}  // namespace

std::tuple<Tensor, Tensor> Operators::route(const Tensor& x, const Tensor& weight,
                                            const OptionalTensor& bias,
                                            const RuleFields& rule) const {
  const auto& [scoring, chosen, is_normalised, scale, groups, chosen_groups, members, choice_bias] =
      rule;
  const int64_t rows = x.size(0), experts = weight.size(0);
  check_rows(weight, "weight", -1);
  check_dense(weight, "weight", at::kFloat, -1);
  check_rows(x, "x", weight.size(1));
  check_dense(x, "x", at::kFloat, -1);
  if (bias.has_value()) check_dense(*bias, "bias", at::kFloat, experts);
  if (choice_bias.has_value()) check_dense(*choice_bias, "choice_bias", at::kFloat, experts);
  TORCH_CHECK(0 < groups && experts % groups == 0 && 0 < chosen_groups && chosen_groups <= groups &&
                  0 < members && members <= experts / groups && 0 < chosen &&
                  chosen <= experts / groups * chosen_groups,
              chosen, " of ", experts, " experts from ", chosen_groups, " of ", groups, " groups");
  Tensor ids = at::empty({rows, chosen}, x.options().dtype(at::kLong));
  Tensor weights = at::empty({rows, chosen}, x.options());
  kernels_.route({x.const_data_ptr<float>(), weight.const_data_ptr<float>(), data_of<float>(bias),
                  data_of<float>(choice_bias), rows, x.size(1), experts, scoring_named(scoring),
                  groups, chosen_groups, members, chosen, is_normalised,
                  static_cast<float>(scale), ids.mutable_data_ptr<int64_t>(),
                  weights.mutable_data_ptr<float>(), num_threads()});
  return {ids, weights};
}

Tensor Operators::mix_experts(const Tensor& x, const Tensor& ids, const Tensor& weights,
                              const ExpertFields& experts, const ActivationFields& activation,
                              bool weighs_inputs, const OptionalTensor& addend) const {
  const auto& [up, down, up_bias, down_bias] = experts;
  const auto& [name, is_gated, limit, alpha] = activation;
  TORCH_CHECK(up != nullptr && down != nullptr && is_gated && up->size() == down->size() &&
                  up->outputs() == 2 * down->inputs() && down->outputs() == up->inputs(),
              "experts must have a gate, and ups and downs that fit");
  const int64_t rows = x.size(0), hidden = up->inputs(), chosen = ids.size(-1);
  check_rows(x, "x", hidden);
  check_dense(x, "x", at::kFloat, -1);
  check_dense(ids, "ids", at::kLong, rows * chosen);
  check_slots(ids, up->size());
  check_dense(weights, "weights", at::kFloat, rows * chosen);
  if (up_bias.has_value()) {
    check_dense(*up_bias, "up_bias", at::kFloat, up->size() * up->outputs());
  }
  if (down_bias.has_value()) {
    check_dense(*down_bias, "down_bias", at::kFloat, down->size() * hidden);
  }
  if (addend.has_value()) check_dense(*addend, "addend", at::kFloat, x.numel());
  Tensor out = at::empty(x.sizes(), x.options());
  kernels_.mix_experts({kernels_.linear.compute, x.const_data_ptr<float>(), ids.const_data_ptr<int64_t>(),
                        weights.const_data_ptr<float>(), rows, hidden, chosen, up->size(),
                        weighs_inputs, up->weights(), down->weights(), data_of<float>(up_bias),
                        data_of<float>(down_bias), activation_named(name),
                        static_cast<float>(limit), static_cast<float>(alpha),
                        data_of<float>(addend), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

void Operators::gate(const Tensor& x, const Tensor& weight, const Tensor& y) const {
  check_rows(x, "x", weight.numel());
  check_dense(x, "x", at::kFloat, -1);
  check_dense(weight, "weight", at::kFloat, -1);
  check_rows(y, "y", -1);
  check_dense(y, "y", at::kFloat, x.size(0) * y.size(1));
  kernels_.gate({x.const_data_ptr<float>(), weight.const_data_ptr<float>(), y.data_ptr<float>(),
                 x.size(0), x.size(1), y.size(1), num_threads()});
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
