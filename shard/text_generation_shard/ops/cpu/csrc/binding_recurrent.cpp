// Recurrent layers, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

void check_states(const Tensor& states, const char* name, int64_t depth, int64_t channels) {
  TORCH_CHECK(states.dim() == 3, name, " must be [slots, ", depth, ", ", channels, "]");
  check_dense(states, name, at::kFloat, states.size(0) * depth * channels);
}

void check_sequences(const Tensor& slots, const Tensor& first_rows, int64_t num_slots,
                     int64_t rows) {
  check_dense(slots, "slots", at::kLong, -1);
  check_slots(slots, num_slots);
  check_dense(first_rows, "first_rows", at::kLong, slots.numel() + 1);
  const int64_t* first = first_rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < slots.numel(); ++i) {
    TORCH_CHECK(first[i] < first[i + 1], "first_rows must ascend");
  }
  TORCH_CHECK(first[0] == 0 && first[slots.numel()] == rows, "first_rows must cover ", rows,
              " rows");
}

}  // namespace

Tensor Operators::causal_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                              const Tensor& past, const Tensor& slots,
                              const Tensor& first_rows) const {
  const int64_t kernel = weight.size(0), channels = weight.size(1);
  check_rows(x, "x", channels);
  check_dense(weight, "weight", at::kFloat, -1);
  if (bias.has_value()) check_dense(*bias, "bias", at::kFloat, channels);
  check_states(past, "past", kernel - 1, channels);
  check_sequences(slots, first_rows, past.size(0), x.size(0));
  Tensor out = at::empty({x.size(0), channels}, x.options());
  kernels_.causal_conv({x.const_data_ptr<float>(), x.stride(0), channels, kernel,
                        weight.const_data_ptr<float>(), data_of<float>(bias),
                        past.data_ptr<float>(), slots.const_data_ptr<int64_t>(),
                        first_rows.const_data_ptr<int64_t>(), slots.numel(),
                        out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

Tensor Operators::selective_scan(const Tensor& values, const Tensor& steps, const Tensor& gates,
                                 const Tensor& writes, const Tensor& reads, const Tensor& rates,
                                 const Tensor& skip, const Tensor& states, const Tensor& slots,
                                 const Tensor& first_rows) const {
  const int64_t rows = values.size(0), size = rates.size(0), channels = rates.size(1);
  TORCH_CHECK(0 < size && size <= kMaxStateSize, "a state of ", size, " numbers per channel");
  check_dense(values, "values", at::kFloat, rows * channels);
  check_dense(steps, "steps", at::kFloat, rows * channels);
  check_rows(gates, "gates", channels);
  check_rows(writes, "writes", size);
  check_rows(reads, "reads", size);
  TORCH_CHECK(gates.size(0) == rows && writes.size(0) == rows && reads.size(0) == rows,
              "gates, writes and reads must have ", rows, " rows");
  check_dense(rates, "rates", at::kFloat, -1);
  check_dense(skip, "skip", at::kFloat, channels);
  check_states(states, "states", size, channels);
  check_sequences(slots, first_rows, states.size(0), rows);
  Tensor out = at::empty({rows, channels}, values.options());
  kernels_.selective_scan({values.const_data_ptr<float>(), steps.const_data_ptr<float>(),
                           gates.const_data_ptr<float>(), gates.stride(0),
                           writes.const_data_ptr<float>(), reads.const_data_ptr<float>(),
                           writes.stride(0), reads.stride(0), rates.const_data_ptr<float>(),
                           skip.const_data_ptr<float>(), channels, size, states.data_ptr<float>(),
                           slots.const_data_ptr<int64_t>(), first_rows.const_data_ptr<int64_t>(),
                           slots.numel(), out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
