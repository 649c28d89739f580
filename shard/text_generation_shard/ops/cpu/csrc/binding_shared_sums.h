#pragma once

#include <torch/csrc/utils/pybind.h>

namespace cpu_operators::CPU_OPERATORS_ISA {

// Add the class of shared_sums.h to the module.
void define_shared_sums(pybind11::module_& module);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
