// Packed weight matrices, as Python sees them.
#include "binding.h"
#include "binding_huge_pages.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

WeightFormat format_named(const std::string& name) {
  if (name == "float32") return WeightFormat::kFloat32;
  if (name == "bfloat16") return WeightFormat::kBFloat16;
  if (name == "int8") return WeightFormat::kInt8;
  TORCH_CHECK(name == "int4", "unknown weight format ", name);
  return WeightFormat::kInt4;
}

// What the parts have: the format's own type, or the one of the first part, where both will do.
at::ScalarType source_type(const SourceParts& parts, WeightFormat format) {
  if (format == WeightFormat::kBFloat16) return at::kBFloat16;
  const bool is_float = format == WeightFormat::kFloat32 || parts.empty();
  return !is_float && parts[0].second.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
}

// Where the rows of a matrix lie; null for those that no part has.
std::vector<const void*> rows_of(const SourceParts& parts, const Weights& weights,
                                 at::ScalarType type) {
  std::vector<const void*> rows(static_cast<size_t>(weights.outputs), nullptr);
  for (const auto& [first, part] : parts) {
    TORCH_CHECK(part.device().is_cpu() && part.scalar_type() == type && part.dim() == 2 &&
                    part.size(1) == weights.inputs && (part.stride(1) == 1 || part.size(1) < 2),
                "a part must have contiguous rows of ", weights.inputs, " ", type, ", got ",
                part.scalar_type(), " ", part.sizes(), " of strides ", part.strides());
    TORCH_CHECK(0 <= first && first + part.size(0) <= weights.outputs, "a part of ", part.size(0),
                " rows begins at ", first, " of ", weights.outputs);
    const auto* data = static_cast<const char*>(part.const_data_ptr());
    const int64_t bytes = part.stride(0) * part.element_size();
    for (int64_t i = 0; i < part.size(0); ++i) rows[first + i] = data + i * bytes;
  }
  return rows;
}

}  // namespace

PackedMatrix::PackedMatrix(const Kernels& kernels, const SourceParts& parts, int64_t outputs,
                           int64_t inputs, const std::string& format)
    : kernels_(kernels) {
  weights_ = {format_named(format), outputs, inputs, nullptr};
  const at::ScalarType type = source_type(parts, weights_.format);
  const std::vector<const void*> rows = rows_of(parts, weights_, type);
  memory_ = in_huge_pages(kernels_.packed_bytes(weights_));
  weights_.panels = memory_.data_ptr();
  kernels_.pack({rows.data(), type == at::kBFloat16, weights_, num_threads()});
}

MatrixStack::MatrixStack(const std::vector<const PackedMatrix*>& matrices) {
  TORCH_CHECK(!matrices.empty(), "a stack needs matrices");
  for (const PackedMatrix* matrix : matrices) {
    TORCH_CHECK(matrix != nullptr && matrix->weights_.format == matrices[0]->weights_.format &&
                    matrix->outputs() == matrices[0]->outputs() &&
                    matrix->inputs() == matrices[0]->inputs(),
                "matrices of a stack must be of one shape and format");
    weights_.push_back(matrix->weights_);
    memory_.push_back(matrix->memory_);
  }
}

Tensor PackedMatrix::multiply(const Tensor& x, const OptionalTensor& bias,
                              const OptionalTensor& addend) const {
  check_rows(x, "x", weights_.inputs);
  if (bias.has_value()) check_dense(*bias, "bias", at::kFloat, weights_.outputs);
  if (addend.has_value()) {
    check_rows(*addend, "addend", weights_.outputs);
    check_dense(*addend, "addend", at::kFloat, x.size(0) * weights_.outputs);
  }
  Tensor out = at::empty({x.size(0), weights_.outputs}, x.options());
  if (out.numel() == 0) return out;
  kernels_.linear({x.const_data_ptr<float>(), x.size(0), x.stride(0), weights_,
                   data_of<float>(bias), data_of<float>(addend), out.mutable_data_ptr<float>(),
                   weights_.outputs, num_threads()});
  return out;
}

Tensor PackedMatrix::rows(const Tensor& ids) const {
  check_dense(ids, "ids", at::kLong, -1);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  check_values([id, count = ids.numel(), limit = weights_.outputs] {
    for (int64_t i = 0; i < count; ++i) {
      TORCH_CHECK(0 <= id[i] && id[i] < limit, "row ", id[i], " of ", limit);
    }
  });
  Tensor out = at::empty({ids.numel(), weights_.inputs}, ids.options().dtype(at::kFloat));
  if (out.numel() == 0) return out;
  kernels_.rows({id, ids.numel(), weights_, out.mutable_data_ptr<float>(), num_threads()});
  return out;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
