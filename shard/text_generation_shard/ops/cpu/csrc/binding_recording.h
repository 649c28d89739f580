#pragma once

#include <torch/csrc/utils/pybind.h>

namespace cpu_operators::CPU_OPERATORS_ISA {

// Add the classes of recording.h to the module.
void define_recording(pybind11::module_& module);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
