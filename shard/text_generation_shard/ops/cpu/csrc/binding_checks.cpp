// What tensors must be before kernels may read them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

void check_rows(const Tensor& tensor, const char* name, int64_t columns) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat, name,
              " must be float32 on the CPU");
  TORCH_CHECK(tensor.dim() == 2 && (columns < 0 || tensor.size(1) == columns), name,
              " must be [rows, ", columns, "], got ", tensor.sizes());
  TORCH_CHECK(tensor.stride(1) == 1 || tensor.size(1) <= 1, name, " must have contiguous rows");
}

void check_dense(const Tensor& tensor, const char* name, at::ScalarType type, int64_t elements) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == type && tensor.is_contiguous() &&
                  (elements < 0 || tensor.numel() == elements),
              name, " must be a contiguous CPU tensor of ", type, " with ", elements,
              " elements, got ", tensor.scalar_type(), " ", tensor.sizes());
}

void check_slots(const Tensor& slots, int64_t limit) {
  check_values([slot = slots.const_data_ptr<int64_t>(), count = slots.numel(), limit] {
    for (int64_t i = 0; i < count; ++i) {
      TORCH_CHECK(0 <= slot[i] && slot[i] < limit, "slot ", slot[i], " of ", limit);
    }
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
