// The kernels as Python sees them: tensors are checked here, and here alone.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "layout.h"
#include "pool.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kHugePageBytes = 2 << 20;

void check_rows(const Tensor& tensor, const char* name, int64_t columns) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat, name,
              " must be float32 on the CPU");
  TORCH_CHECK(tensor.dim() == 2 && (columns < 0 || tensor.size(1) == columns), name, " must be [rows, ",
              columns, "], got ", tensor.sizes());
  TORCH_CHECK(tensor.stride(1) == 1 || tensor.size(1) <= 1, name, " must have contiguous rows");
}

void check_dense(const Tensor& tensor, const char* name, at::ScalarType type, int64_t elements) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == type && tensor.is_contiguous() &&
                  (elements < 0 || tensor.numel() == elements),
              name, " must be a contiguous CPU tensor of ", type, " with ", elements,
              " elements, got ", tensor.scalar_type(), " ", tensor.sizes());
}

template <class Value>
const Value* data_of(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<Value>() : nullptr;
}

WeightFormat format_named(const std::string& name) {
  if (name == "float32") return WeightFormat::kFloat32;
  if (name == "bfloat16") return WeightFormat::kBFloat16;
  if (name == "int8") return WeightFormat::kInt8;
  TORCH_CHECK(name == "int4", "unknown weight format ", name);
  return WeightFormat::kInt4;
}

// Memory that stays: in huge pages, where the kernel has them, so that streaming through it does
// not wait for address translation.
Tensor allocate(int64_t bytes) {
  const bool is_large = bytes >= kHugePageBytes;
  const int64_t alignment = is_large ? kHugePageBytes : kStepBytes;
  const int64_t capacity = ceil_div(bytes > 0 ? bytes : 1, alignment) * alignment;
  void* memory = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(capacity));
  TORCH_CHECK(memory != nullptr, "can't allocate memory: ", bytes, " bytes of packed weights");
  if (is_large) madvise(memory, static_cast<size_t>(capacity), MADV_HUGEPAGE);
  return at::from_blob(memory, {bytes}, [](void* p) { std::free(p); }, at::kByte);
}

// A weight matrix [outputs, inputs], packed; immutable.
class PackedMatrix {
 public:
  PackedMatrix(const Kernels& kernels, const Tensor& source, const std::string& format)
      : kernels_(kernels) {
    weights_ = {format_named(format), source.size(0), source.size(1), nullptr};
    const auto type = weights_.format == WeightFormat::kBFloat16 ? at::kBFloat16 : at::kFloat;
    check_dense(source, "source", type, weights_.outputs * weights_.inputs);
    memory_ = allocate(kernels_.packed_bytes(weights_));
    weights_.panels = memory_.data_ptr();
    kernels_.pack({source.const_data_ptr(), weights_, num_threads()});
  }

  int64_t num_bytes() const { return memory_.numel(); }
  int64_t outputs() const { return weights_.outputs; }
  int64_t inputs() const { return weights_.inputs; }

  Tensor multiply(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& addend) const {
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
                     num_threads()});
    return out;
  }

  Tensor rows(const Tensor& ids) const {
    check_dense(ids, "ids", at::kLong, -1);
    const int64_t* id = ids.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < ids.numel(); ++i) {
      TORCH_CHECK(0 <= id[i] && id[i] < weights_.outputs, "row ", id[i], " of ", weights_.outputs);
    }
    Tensor out = at::empty({ids.numel(), weights_.inputs}, ids.options().dtype(at::kFloat));
    if (out.numel() == 0) return out;
    kernels_.rows({id, ids.numel(), weights_, out.mutable_data_ptr<float>(),
                   num_threads()});
    return out;
  }

 private:
  const Kernels& kernels_;
  Weights weights_;
  Tensor memory_;
};

Cache cache_of(const Tensor& keys, const Tensor& values) {
  const auto type = keys.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "a cache of ", type);
  TORCH_CHECK(keys.dim() == 4, "keys must be [num_blocks, block_size, num_kv_heads, head_dim]");
  check_dense(keys, "keys", type, -1);
  const int64_t block_size = keys.size(1), num_kv_heads = keys.size(2);
  const int64_t value_stride = values.stride(2);
  TORCH_CHECK(values.device().is_cpu() && values.dim() == 4 && values.scalar_type() == type && values.size(0) == keys.size(0) &&
                  values.size(1) == block_size && values.size(2) == num_kv_heads &&
                  values.stride(3) == 1 && values.stride(1) == num_kv_heads * value_stride &&
                  values.stride(0) == block_size * values.stride(1),
              "values must have the keys' type and lie like keys ", keys.sizes(), ", got ",
              values.scalar_type(), " ", values.sizes(), " with strides ", values.strides());
  return {keys.data_ptr(), values.data_ptr(), type == at::kBFloat16, block_size,
          num_kv_heads,    keys.size(3),      values.size(3),        value_stride};
}

// The operators of one instruction set.
class Operators {
 public:
  explicit Operators(const Kernels& kernels) : kernels_(kernels) {}

  bool rounds_to_bfloat16() const { return kernels_.rounds_to_bfloat16; }

  PackedMatrix pack(const Tensor& source, const std::string& format) const {
    return PackedMatrix(kernels_, source, format);
  }

  Tensor rms_norm(const Tensor& stream, const OptionalTensor& update, const Tensor& weight,
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

  Tensor silu_mul(const Tensor& gate_up) const {
    check_rows(gate_up, "gate_up", -1);
    check_dense(gate_up, "gate_up", at::kFloat, -1);
    const int64_t rows = gate_up.size(0), size = gate_up.size(1) / 2;
    TORCH_CHECK(gate_up.size(1) == 2 * size, "gate_up must have an even width");
    Tensor out = at::empty({rows, size}, gate_up.options());
    kernels_.silu_mul({gate_up.const_data_ptr<float>(), rows, size,
                       out.mutable_data_ptr<float>(), num_threads()});
    return out;
  }

  // Ids and log-softmax of the greatest scores, and the rows where there is no such thing.
  std::tuple<Tensor, Tensor, std::vector<int64_t>> choose_best(const Tensor& scores) const {
    check_rows(scores, "scores", -1);
    const int64_t rows = scores.size(0);
    TORCH_CHECK(scores.size(1) > 0, "scores must not be empty");
    Tensor ids = at::empty({rows}, scores.options().dtype(at::kLong));
    Tensor logprobs = at::empty({rows}, scores.options());
    kernels_.choose_best({scores.const_data_ptr<float>(), rows, scores.size(1), scores.stride(0),
                          ids.mutable_data_ptr<int64_t>(), logprobs.mutable_data_ptr<float>(),
                          num_threads()});
    return {ids, logprobs, failed_rows(ids)};
  }

  // The same of the tokens that are chosen or drawn.
  std::tuple<Tensor, Tensor, std::vector<int64_t>> sample(
      const Tensor& scores, const Tensor& temperature, const Tensor& top_k, const Tensor& top_p,
      const Tensor& min_p, const Tensor& draws, const Tensor& seeds,
      const Tensor& positions) const {
    check_rows(scores, "scores", -1);
    const int64_t rows = scores.size(0);
    TORCH_CHECK(scores.size(1) > 0, "scores must not be empty");
    check_dense(temperature, "temperature", at::kFloat, rows);
    check_dense(top_k, "top_k", at::kLong, rows);
    check_dense(top_p, "top_p", at::kFloat, rows);
    check_dense(min_p, "min_p", at::kFloat, rows);
    check_dense(draws, "draws", at::kBool, rows);
    check_dense(seeds, "seeds", at::kLong, rows);
    check_dense(positions, "positions", at::kLong, rows);
    Tensor ids = at::empty({rows}, scores.options().dtype(at::kLong));
    Tensor logprobs = at::empty({rows}, scores.options());
    kernels_.sample({scores.const_data_ptr<float>(), rows, scores.size(1), scores.stride(0),
                     temperature.const_data_ptr<float>(), top_p.const_data_ptr<float>(),
                     min_p.const_data_ptr<float>(), top_k.const_data_ptr<int64_t>(),
                     draws.const_data_ptr<bool>(), seeds.const_data_ptr<int64_t>(),
                     positions.const_data_ptr<int64_t>(), ids.mutable_data_ptr<int64_t>(),
                     logprobs.mutable_data_ptr<float>(), num_threads()});
    return {ids, logprobs, failed_rows(ids)};
  }

  // Remove what masks do not allow from some rows of the scores.
  void mask_scores(const Tensor& scores, const Tensor& rows, const Tensor& allowed) const {
    check_rows(scores, "scores", -1);
    const int64_t masks = rows.numel(), words = (scores.size(1) + 31) / 32;
    check_dense(rows, "rows", at::kLong, masks);
    check_dense(allowed, "allowed", at::kInt, masks * words);
    const auto* row = rows.const_data_ptr<int64_t>();
    for (int64_t mask = 0; mask < masks; ++mask) {
      TORCH_CHECK(row[mask] >= 0 && row[mask] < scores.size(0), "rows must name rows of the scores");
    }
    const auto* bits = reinterpret_cast<const uint32_t*>(allowed.const_data_ptr<int32_t>());
    kernels_.mask_scores({scores.mutable_data_ptr<float>(), scores.size(1), scores.stride(0), row,
                          bits, masks, words, num_threads()});
  }

  // What a feed-forward layer adds to the stream, and the stream.
  Tensor add_gated_mlp(const Tensor& stream, const Tensor& norm_weight, double eps,
                       const PackedMatrix& gate_up, const OptionalTensor& gate_up_bias,
                       const PackedMatrix& down, const OptionalTensor& down_bias) const {
    const Tensor normed = rms_norm(stream, std::nullopt, norm_weight, eps);
    const Tensor gated = silu_mul(gate_up.multiply(normed, gate_up_bias, std::nullopt));
    return down.multiply(gated, down_bias, stream);
  }

  // The first half of attention: queries, turned; keys and values go to the cache.
  Tensor project_and_store(const Tensor& stream, const Tensor& norm_weight, double eps,
                           const PackedMatrix& qkv, const OptionalTensor& qkv_bias,
                           const Tensor& cos, const Tensor& signed_sin, const Tensor& keys,
                           const Tensor& values, const Tensor& slots) const {
    const Tensor normed = rms_norm(stream, std::nullopt, norm_weight, eps);
    const Tensor projected = qkv.multiply(normed, qkv_bias, std::nullopt);
    rotate_and_store(projected, cos, signed_sin, keys, values, slots);
    const int64_t head_dim = keys.size(3), num_heads = projected.size(1) / head_dim;
    return projected.view({projected.size(0), num_heads, head_dim})
        .narrow(1, 0, num_heads - 2 * keys.size(2));
  }

  // Changes qkv, keys and values.
  void rotate_and_store(const Tensor& qkv, const Tensor& cos, const Tensor& signed_sin,
                        const Tensor& keys, const Tensor& values, const Tensor& slots) const {
    const Cache cache = cache_of(keys, values);
    const int64_t rows = slots.numel(), head_dim = cache.head_dim;
    TORCH_CHECK(cache.value_dim == head_dim && cache.value_stride == head_dim,
                "keys and values must be equally wide and lie apart");
    check_rows(qkv, "qkv", -1);
    check_dense(qkv, "qkv", at::kFloat, -1);
    const int64_t num_heads = qkv.size(1) / head_dim - 2 * cache.num_kv_heads;
    const int64_t rotary_dim = cos.size(-1);
    TORCH_CHECK(qkv.size(0) == rows && num_heads > 0 && qkv.size(1) % head_dim == 0 &&
                    rotary_dim <= head_dim && rotary_dim % 2 == 0,
                "qkv ", qkv.sizes(), " does not fit ", rows, " slots, ", rotary_dim,
                " turning dimensions and a cache ", keys.sizes());
    check_dense(cos, "cos", at::kFloat, rows * rotary_dim);
    check_dense(signed_sin, "signed_sin", at::kFloat, rows * rotary_dim);
    check_dense(slots, "slots", at::kLong, rows);
    check_slots(slots, keys.size(0) * cache.block_size);
    kernels_.rotate_and_store({qkv.data_ptr<float>(), cos.const_data_ptr<float>(),
                               signed_sin.const_data_ptr<float>(), rotary_dim,
                               slots.const_data_ptr<int64_t>(), rows, num_heads, cache,
                               num_threads()});
  }

  Tensor attend(const Tensor& query, const Tensor& keys, const Tensor& values,
                const Tensor& block_tables, const Tensor& first_rows, const Tensor& contexts,
                int64_t sliding_window, int64_t attention_chunk, double scale, double soft_cap,
                const OptionalTensor& alibi_slopes, const OptionalTensor& distance_bias,
                const OptionalTensor& sinks) const {
    const Cache cache = cache_of(keys, values);
    const int64_t requests = contexts.numel();
    TORCH_CHECK(query.dim() == 3 && query.scalar_type() == at::kFloat &&
                    query.size(2) == cache.head_dim && query.size(1) % cache.num_kv_heads == 0 &&
                    query.stride(2) == 1 && query.stride(1) == cache.head_dim,
                "query must be float32 [rows, num_heads, head_dim] with contiguous rows, got ",
                query.scalar_type(), " ", query.sizes());
    check_dense(block_tables, "block_tables", at::kInt, -1);
    TORCH_CHECK(block_tables.dim() == 2 && block_tables.size(0) == requests,
                "block_tables must be [requests, max_blocks]");
    check_dense(contexts, "contexts", at::kLong, requests);
    check_dense(first_rows, "first_rows", at::kLong, requests + 1);
    if (alibi_slopes.has_value()) {
      check_dense(*alibi_slopes, "alibi_slopes", at::kFloat, query.size(1));
    }
    if (distance_bias.has_value()) {
      check_dense(*distance_bias, "distance_bias", at::kFloat, -1);
      TORCH_CHECK(distance_bias->dim() == 2 && distance_bias->size(0) == query.size(1) &&
                      distance_bias->size(1) > 0,
                  "distance_bias must be [num_heads, distances], got ", distance_bias->sizes());
    }
    if (sinks.has_value()) check_dense(*sinks, "sinks", at::kFloat, query.size(1));
    Tensor out = at::empty({query.size(0), query.size(1), cache.value_dim}, query.options());
    kernels_.attend({query.const_data_ptr<float>(), query.stride(0), query.size(1), cache,
                     block_tables.const_data_ptr<int32_t>(), block_tables.size(1), requests,
                     first_rows.const_data_ptr<int64_t>(), contexts.const_data_ptr<int64_t>(),
                     sliding_window, attention_chunk, static_cast<float>(scale),
                     static_cast<float>(soft_cap),
                     data_of<float>(alibi_slopes), data_of<float>(distance_bias),
                     distance_bias.has_value() ? distance_bias->size(1) : 0, data_of<float>(sinks),
                     out.mutable_data_ptr<float>(), num_threads()});
    return out;
  }

  // What a layer of attention adds to the stream, and the stream. Changes keys and values.
  Tensor add_attention(const Tensor& stream, const Tensor& norm_weight, double eps,
                       const PackedMatrix& qkv, const OptionalTensor& qkv_bias,
                       const PackedMatrix& output, const OptionalTensor& output_bias,
                       const Tensor& cos, const Tensor& signed_sin, const Tensor& keys,
                       const Tensor& values, const Tensor& slots, const Tensor& block_tables,
                       const Tensor& first_rows, const Tensor& contexts, int64_t sliding_window,
                       int64_t attention_chunk, double scale, double soft_cap,
                       const OptionalTensor& alibi_slopes, const OptionalTensor& distance_bias,
                       const OptionalTensor& sinks) const {
    const Tensor query = project_and_store(stream, norm_weight, eps, qkv, qkv_bias, cos, signed_sin,
                                           keys, values, slots);
    const Tensor attended =
        attend(query, keys, values, block_tables, first_rows, contexts, sliding_window,
               attention_chunk, scale, soft_cap, alibi_slopes, distance_bias, sinks);
    return output.multiply(attended.flatten(1), output_bias, stream);
  }

  // Changes past.
  Tensor causal_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     const Tensor& past, const Tensor& slots, const Tensor& first_rows) const {
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

  // Changes states.
  Tensor selective_scan(const Tensor& values, const Tensor& steps, const Tensor& gates,
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
    kernels_.selective_scan(
        {values.const_data_ptr<float>(), steps.const_data_ptr<float>(),
         gates.const_data_ptr<float>(), gates.stride(0), writes.const_data_ptr<float>(),
         reads.const_data_ptr<float>(), writes.stride(0), reads.stride(0),
         rates.const_data_ptr<float>(), skip.const_data_ptr<float>(), channels, size,
         states.data_ptr<float>(), slots.const_data_ptr<int64_t>(),
         first_rows.const_data_ptr<int64_t>(), slots.numel(), out.mutable_data_ptr<float>(),
         num_threads()});
    return out;
  }

 private:
  // Rows whose id says that their scores are not numbers.
  static std::vector<int64_t> failed_rows(const Tensor& ids) {
    std::vector<int64_t> failed;
    const int64_t* id = ids.const_data_ptr<int64_t>();
    for (int64_t row = 0; row < ids.numel(); ++row) {
      if (id[row] < 0) failed.push_back(row);
    }
    return failed;
  }

  static void check_states(const Tensor& states, const char* name, int64_t depth,
                           int64_t channels) {
    TORCH_CHECK(states.dim() == 3, name, " must be [slots, ", depth, ", ", channels, "]");
    check_dense(states, name, at::kFloat, states.size(0) * depth * channels);
  }

  static void check_sequences(const Tensor& slots, const Tensor& first_rows, int64_t num_slots,
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

  static void check_slots(const Tensor& slots, int64_t limit) {
    const int64_t* slot = slots.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < slots.numel(); ++i) {
      TORCH_CHECK(0 <= slot[i] && slot[i] < limit, "slot ", slot[i], " of ", limit);
    }
  }

  const Kernels& kernels_;
};

// Instruction sets that this processor has and this file was built with, best first.
std::vector<std::string> instruction_sets() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  std::vector<std::string> names;
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) names.emplace_back("avx512_bf16");
  if (has_avx512) names.emplace_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.emplace_back("avx2");
  return names;
}

const Kernels& kernels_of(const std::string& instruction_set) {
  static const Kernels avx512_bf16_kernels = [] {
    Kernels kernels = avx512::kernels;
    kernels.rounds_to_bfloat16 = true;
    kernels.linear = avx512_bf16::linear;
    return kernels;
  }();
  if (instruction_set == "avx512_bf16") return avx512_bf16_kernels;
  return instruction_set == "avx512" ? avx512::kernels : avx2::kernels;
}

Operators operators_for(const std::string& instruction_set) {
  for (const std::string& name : instruction_sets()) {
    if (name == instruction_set) return Operators(kernels_of(name));
  }
  TORCH_CHECK(false, "this processor does not have ", instruction_set);
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
  py::class_<Operators>(module, "Operators")
      .def(py::init(&operators_for))
      .def_property_readonly("rounds_to_bfloat16", &Operators::rounds_to_bfloat16)
      .def("pack", &Operators::pack, without_gil)
      .def("rms_norm", &Operators::rms_norm, without_gil)
      .def("silu_mul", &Operators::silu_mul, without_gil)
      .def("choose_best", &Operators::choose_best, without_gil)
      .def("mask_scores", &Operators::mask_scores, without_gil)
      .def("sample", &Operators::sample, without_gil)
      .def("add_gated_mlp", &Operators::add_gated_mlp, without_gil)
      .def("project_and_store", &Operators::project_and_store, without_gil)
      .def("add_attention", &Operators::add_attention, without_gil)
      .def("rotate_and_store", &Operators::rotate_and_store, without_gil)
      .def("attend", &Operators::attend, without_gil)
      .def("causal_conv", &Operators::causal_conv, without_gil)
      .def("selective_scan", &Operators::selective_scan, without_gil);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
