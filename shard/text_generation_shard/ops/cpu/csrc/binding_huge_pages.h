// Memory in huge pages, where the kernel has them: who streams through it does not wait for address
// translation at every 4 KB.
#pragma once

#include <ATen/core/Tensor.h>

namespace cpu_operators::CPU_OPERATORS_ISA {

// So many bytes for what stays, from the start of a cache line on, zero. What was asked for one after
// the other lies side by side, and goes back to the kernel when nobody holds any of it.
at::Tensor in_huge_pages(int64_t bytes);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
