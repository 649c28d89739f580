// The module: which instruction sets there are, and what Python may call.
#include "binding.h"

#include <torch/csrc/utils/pybind.h>

#include "binding_recording.h"
#include "binding_shared_sums.h"
#include "processor.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Instruction sets that this processor has and this file was built with, best first.
std::vector<std::string> instruction_sets() {
  static const bool has_tiles = has_avx512_bf16() && may_use_tiles();
  std::vector<std::string> names;
  if (has_tiles) names.emplace_back("amx");
  if (has_avx512_bf16()) names.emplace_back("avx512_bf16");
  if (has_avx512()) names.emplace_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.emplace_back("avx2");
  return names;
}

const Kernels& kernels_of(const std::string& instruction_set) {
  static const Kernels avx512_bf16_kernels = [] {
    Kernels kernels = avx512::kernels;
    kernels.rounds_to_bfloat16 = true;
    kernels.linear = avx512_bf16::linear;
    kernels.attend = avx512_bf16::attend;
    return kernels;
  }();
  static const Kernels amx_kernels = [] {
    Kernels kernels = avx512_bf16_kernels;
    kernels.linear = amx::linear;
    return kernels;
  }();
  if (instruction_set == "amx") return amx_kernels;
  if (instruction_set == "avx512_bf16") return avx512_bf16_kernels;
  if (instruction_set == "avx512") return avx512::kernels;
  TORCH_CHECK(instruction_set == "avx2", "unknown instruction set ", instruction_set);
  return avx2::kernels;
}

Operators operators_for(const std::string& instruction_set) {
  return Operators(kernels_of(instruction_set));
}

}  // namespace

PYBIND11_MODULE(text_generation_cpu_operators, module) {
  namespace py = pybind11;
  const py::call_guard<py::gil_scoped_release> without_gil;
  module.def("instruction_sets", &instruction_sets);
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads);
  py::class_<PackedMatrix>(module, "PackedMatrix")
      .def("multiply", &PackedMatrix::multiply, py::arg("x"), py::arg("bias"),
           py::arg("addend") = py::none(), without_gil)
      .def("rows", &PackedMatrix::rows, without_gil)
      .def_property_readonly("num_bytes", &PackedMatrix::num_bytes)
      .def_property_readonly("outputs", &PackedMatrix::outputs)
      .def_property_readonly("inputs", &PackedMatrix::inputs);
  py::class_<MatrixStack>(module, "MatrixStack")
      .def(py::init<const std::vector<const PackedMatrix*>&>());
  py::class_<Operators>(module, "Operators")
      .def(py::init(&operators_for))
      .def_property_readonly("rounds_to_bfloat16", &Operators::rounds_to_bfloat16)
      .def("pack", &Operators::pack, without_gil)
      .def("pack_parts", &Operators::pack_parts, without_gil)
      .def("norm", &Operators::norm, without_gil)
      .def("add_and_norm", &Operators::add_and_norm, without_gil)
      .def("activate", &Operators::activate, without_gil)
      .def("add", &Operators::add, without_gil)
      .def("scale", &Operators::scale, without_gil)
      .def("rotation", &Operators::rotation, without_gil)
      .def("temperature", &Operators::temperature, without_gil)
      .def("route", &Operators::route, without_gil)
      .def("mix_experts", &Operators::mix_experts, without_gil)
      .def("gate", &Operators::gate, without_gil)
      .def("choose_best", &Operators::choose_best, without_gil)
      .def("change_scores", &Operators::change_scores, without_gil)
      .def("sample", &Operators::sample, without_gil)
      .def("candidates", &Operators::candidates, without_gil)
      .def("choose", &Operators::choose, without_gil)
      .def("mlp", &Operators::mlp, without_gil)
      .def("project_and_store", &Operators::project_and_store, without_gil)
      .def("attention", &Operators::attention, without_gil)
      .def("store_heads", &Operators::store_heads, without_gil)
      .def("attend", &Operators::attend, without_gil)
      .def("latent_attention", &Operators::latent_attention, without_gil)
      .def("causal_conv", &Operators::causal_conv, without_gil)
      .def("selective_scan", &Operators::selective_scan, without_gil);
  define_recording(module);
  define_shared_sums(module);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
