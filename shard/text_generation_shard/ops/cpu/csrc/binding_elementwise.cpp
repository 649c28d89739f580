// What is done to every row by itself, as Python sees it.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

Activation activation_named(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "softplus") return Activation::kSoftplus;
  TORCH_CHECK(name == "clamped_swiglu", "unknown activation ", name);
  return Activation::kClampedSwiGLU;
}

Norm norm_of(const NormFields& fields, int64_t size) {
  const auto& [weight, eps, bias, is_centred] = fields;
  check_dense(weight, "weight", at::kFloat, -1);
  TORCH_CHECK(weight.dim() > 0 && weight.size(-1) == size, "weight must be [", size, "], got ",
              weight.sizes());
  if (bias.has_value()) check_dense(*bias, "bias", at::kFloat, size);
  return {weight.const_data_ptr<float>(), data_of<float>(bias), static_cast<float>(eps),
          is_centred};
}

Tensor Operators::norm(const Tensor& x, const NormFields& norm,
                       const OptionalTensor& addend) const {
  check_rows(x, "x", std::get<0>(norm).numel());
  if (addend.has_value()) check_dense(*addend, "addend", at::kFloat, x.numel());
  Tensor out = at::empty(x.sizes(), x.options());
  kernels_.norm({x.data_ptr<float>(), x.stride(0), nullptr, 0, norm_of(norm, x.size(1)),
                 data_of<float>(addend), x.size(0), x.size(1), out.mutable_data_ptr<float>(),
                 num_threads()});
  return out;
}

Tensor Operators::add_and_norm(const Tensor& stream, const Tensor& update, double scale,
                               const NormFields& norm) const {
  check_rows(stream, "stream", std::get<0>(norm).numel());
  check_dense(stream, "stream", at::kFloat, -1);
  check_dense(update, "update", at::kFloat, stream.numel());
  Tensor out = at::empty(stream.sizes(), stream.options());
  kernels_.norm({stream.data_ptr<float>(), stream.stride(0), update.const_data_ptr<float>(),
                 static_cast<float>(scale), norm_of(norm, stream.size(1)), nullptr,
                 stream.size(0), stream.size(1), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

Tensor Operators::activate(const Tensor& x, const ActivationFields& activation) const {
  const auto& [name, is_gated, limit, alpha] = activation;
  check_rows(x, "x", -1);
  check_dense(x, "x", at::kFloat, -1);
  const Activation kind = activation_named(name);
  const int64_t rows = x.size(0), size = is_gated ? x.size(1) / 2 : x.size(1);
  TORCH_CHECK(!is_gated || x.size(1) == 2 * size, "gates and ups must have an even width");
  TORCH_CHECK(is_gated || kind != Activation::kClampedSwiGLU, name, " needs a gate");
  Tensor out = at::empty({rows, size}, x.options());
  kernels_.activate({x.const_data_ptr<float>(), rows, size, kind, is_gated,
                     static_cast<float>(limit), static_cast<float>(alpha),
                     out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

void Operators::add(const Tensor& x, const Tensor& table, const OptionalTensor& ids,
                    double scale) const {
  check_rows(x, "x", -1);
  check_dense(x, "x", at::kFloat, -1);
  check_rows(table, "table", x.size(1));
  check_dense(table, "table", at::kFloat, -1);
  if (ids.has_value()) {
    check_dense(*ids, "ids", at::kLong, x.size(0));
    check_slots(*ids, table.size(0));
  } else {
    check_dense(table, "update", at::kFloat, x.numel());
  }
  kernels_.add({x.data_ptr<float>(), table.const_data_ptr<float>(), data_of<int64_t>(ids),
                static_cast<float>(scale), x.size(0), x.size(1), num_threads()});
}

void Operators::scale(const Tensor& x, const OptionalTensor& bias, double scale,
                      double cap) const {
  check_rows(x, "x", -1);
  check_dense(x, "x", at::kFloat, -1);
  if (bias.has_value()) check_dense(*bias, "bias", at::kFloat, x.size(1));
  kernels_.scale({x.data_ptr<float>(), data_of<float>(bias), static_cast<float>(scale),
                  static_cast<float>(cap), x.size(0), x.size(1), num_threads()});
}

Tensor Operators::temperature(const Tensor& positions, double strength, int64_t interval) const {
  check_dense(positions, "positions", at::kLong, -1);
  TORCH_CHECK(interval > 0, "an interval of ", interval);
  Tensor out = at::empty({positions.numel()}, positions.options().dtype(at::kFloat));
  kernels_.temperature({positions.const_data_ptr<int64_t>(), static_cast<float>(strength), interval,
                        positions.numel(), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

std::tuple<Tensor, Tensor> Operators::rotation(const Tensor& positions, const Tensor& frequencies,
                                               double factor, bool is_interleaved) const {
  const int64_t rows = positions.numel(), half = frequencies.size(-1);
  check_dense(positions, "positions", at::kLong, -1);
  check_dense(frequencies, "frequencies", at::kFloat, frequencies.dim() == 1 ? half : rows * half);
  const auto options = positions.options().dtype(at::kFloat);
  Tensor cos = at::empty({rows, 1, 2 * half}, options), sin = at::empty({rows, 1, 2 * half}, options);
  kernels_.rotation({positions.const_data_ptr<int64_t>(), frequencies.const_data_ptr<float>(),
                     frequencies.dim() == 1 ? 0 : half, rows, half, static_cast<float>(factor),
                     is_interleaved, cos.mutable_data_ptr<float>(), sin.mutable_data_ptr<float>(),
                     num_threads()});
  return {cos, sin};
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
