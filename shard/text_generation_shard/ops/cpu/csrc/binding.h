// The kernels as Python sees them: tensors are checked here, and here alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Float32 rows, each contiguous; columns < 0: any number. Raise where tensors are not as they must
// be, all of them.
void check_rows(const Tensor& tensor, const char* name, int64_t columns);
// Elements < 0: any number.
void check_dense(const Tensor& tensor, const char* name, at::ScalarType type, int64_t elements);
// int64, each in [0, limit).
void check_slots(const Tensor& slots, int64_t limit);

template <class Value>
const Value* data_of(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<Value>() : nullptr;
}

// A weight matrix [outputs, inputs], packed; immutable.
class PackedMatrix {
 public:
  PackedMatrix(const Kernels& kernels, const Tensor& source, const std::string& format);

  int64_t num_bytes() const { return memory_.numel(); }
  int64_t outputs() const { return weights_.outputs; }
  int64_t inputs() const { return weights_.inputs; }

  Tensor multiply(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& addend) const;

  Tensor rows(const Tensor& ids) const;

 private:
  const Kernels& kernels_;
  Weights weights_;
  Tensor memory_;
};

// The operators of one instruction set.
class Operators {
 public:
  explicit Operators(const Kernels& kernels) : kernels_(kernels) {}

  bool rounds_to_bfloat16() const { return kernels_.rounds_to_bfloat16; }

  PackedMatrix pack(const Tensor& source, const std::string& format) const {
    return PackedMatrix(kernels_, source, format);
  }

  Tensor rms_norm(const Tensor& stream, const OptionalTensor& update, const Tensor& weight,
                  double eps) const;

  Tensor silu_mul(const Tensor& gate_up) const;

  // Ids and log-softmax of the greatest scores, and the rows where there is no such thing.
  std::tuple<Tensor, Tensor, std::vector<int64_t>> choose_best(const Tensor& scores) const;

  // The same of the tokens that are chosen or drawn.
  std::tuple<Tensor, Tensor, std::vector<int64_t>> sample(
      const Tensor& scores, const Tensor& temperature, const Tensor& top_k, const Tensor& top_p,
      const Tensor& min_p, const Tensor& draws, const Tensor& seeds, const Tensor& positions) const;

  // Remove what masks do not allow from some rows of the scores.
  void mask_scores(const Tensor& scores, const Tensor& rows, const Tensor& allowed) const;

  // What a feed-forward layer adds to the stream, and the stream.
  Tensor add_gated_mlp(const Tensor& stream, const Tensor& norm_weight, double eps,
                       const PackedMatrix& gate_up, const OptionalTensor& gate_up_bias,
                       const PackedMatrix& down, const OptionalTensor& down_bias) const;

  // The first half of attention: queries, turned; keys and values go to the cache.
  Tensor project_and_store(const Tensor& stream, const Tensor& norm_weight, double eps,
                           const PackedMatrix& qkv, const OptionalTensor& qkv_bias,
                           const Tensor& cos, const Tensor& signed_sin, const Tensor& keys,
                           const Tensor& values, const Tensor& slots) const;

  // Changes qkv, keys and values.
  void rotate_and_store(const Tensor& qkv, const Tensor& cos, const Tensor& signed_sin,
                        const Tensor& keys, const Tensor& values, const Tensor& slots) const;

  Tensor attend(const Tensor& query, const Tensor& keys, const Tensor& values,
                const Tensor& block_tables, const Tensor& first_rows, const Tensor& contexts,
                int64_t sliding_window, int64_t attention_chunk, double scale, double soft_cap,
                const OptionalTensor& alibi_slopes, const OptionalTensor& distance_bias,
                const OptionalTensor& sinks) const;

  // What a layer of attention adds to the stream, and the stream. Changes keys and values.
  Tensor add_attention(const Tensor& stream, const Tensor& norm_weight, double eps,
                       const PackedMatrix& qkv, const OptionalTensor& qkv_bias,
                       const PackedMatrix& output, const OptionalTensor& output_bias,
                       const Tensor& cos, const Tensor& signed_sin, const Tensor& keys,
                       const Tensor& values, const Tensor& slots, const Tensor& block_tables,
                       const Tensor& first_rows, const Tensor& contexts, int64_t sliding_window,
                       int64_t attention_chunk, double scale, double soft_cap,
                       const OptionalTensor& alibi_slopes, const OptionalTensor& distance_bias,
                       const OptionalTensor& sinks) const;

  // Changes past.
  Tensor causal_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     const Tensor& past, const Tensor& slots, const Tensor& first_rows) const;

  // Changes states.
  Tensor selective_scan(const Tensor& values, const Tensor& steps, const Tensor& gates,
                        const Tensor& writes, const Tensor& reads, const Tensor& rates,
                        const Tensor& skip, const Tensor& states, const Tensor& slots,
                        const Tensor& first_rows) const;

 private:
  const Kernels& kernels_;
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
