// Norms, activations and the feed-forward layers made of them, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

Tensor Operators::rms_norm(const Tensor& stream, const OptionalTensor& update, const Tensor& weight,
                           double eps) const {
  check_rows(stream, "x", weight.numel());
  check_dense(stream, "x", at::kFloat, -1);
  if (update.has_value()) check_dense(*update, "update", at::kFloat, stream.numel());
  check_dense(weight, "weight", at::kFloat, -1);
  Tensor out = at::empty(stream.sizes(), stream.options());
  kernels_.rms_norm({stream.data_ptr<float>(), data_of<float>(update),
                     weight.const_data_ptr<float>(), static_cast<float>(eps), stream.size(0),
                     stream.size(1), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

Tensor Operators::silu_mul(const Tensor& gate_up) const {
  check_rows(gate_up, "gate_up", -1);
  check_dense(gate_up, "gate_up", at::kFloat, -1);
  const int64_t rows = gate_up.size(0), size = gate_up.size(1) / 2;
  TORCH_CHECK(gate_up.size(1) == 2 * size, "gate_up must have an even width");
  Tensor out = at::empty({rows, size}, gate_up.options());
  kernels_.silu_mul(
      {gate_up.const_data_ptr<float>(), rows, size, out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

Tensor Operators::add_gated_mlp(const Tensor& stream, const Tensor& norm_weight, double eps,
                                const PackedMatrix& gate_up, const OptionalTensor& gate_up_bias,
                                const PackedMatrix& down, const OptionalTensor& down_bias) const {
  const Tensor normed = rms_norm(stream, std::nullopt, norm_weight, eps);
  const Tensor gated = silu_mul(gate_up.multiply(normed, gate_up_bias, std::nullopt));
  return down.multiply(gated, down_bias, stream);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
