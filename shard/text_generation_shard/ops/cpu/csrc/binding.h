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
#include "recording.h"

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

// Parts of a matrix: the first output of each, and its rows, [rows, inputs]. Outputs that no part
// has are zeros.
using SourceParts = std::vector<std::pair<int64_t, Tensor>>;

// A weight matrix [outputs, inputs], packed; immutable.
class PackedMatrix {
 public:
  PackedMatrix(const Kernels& kernels, const SourceParts& parts, int64_t outputs, int64_t inputs,
               const std::string& format);

  int64_t num_bytes() const { return memory_.numel(); }
  int64_t outputs() const { return weights_.outputs; }
  int64_t inputs() const { return weights_.inputs; }

  Tensor multiply(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& addend) const;

  Tensor rows(const Tensor& ids) const;

 private:
  friend class MatrixStack;

  const Kernels& kernels_;
  Weights weights_;
  Tensor memory_;
};

// Matrices of one shape and format, which stay as long as the stack does.
class MatrixStack {
 public:
  explicit MatrixStack(const std::vector<const PackedMatrix*>& matrices);

  int64_t size() const { return static_cast<int64_t>(weights_.size()); }
  int64_t outputs() const { return weights_[0].outputs; }
  int64_t inputs() const { return weights_[0].inputs; }
  const Weights* weights() const { return weights_.data(); }

 private:
  std::vector<Weights> weights_;
  std::vector<Tensor> memory_;
};

// What belongs together comes from Python as one tuple, with these fields.
using NormFields = std::tuple<Tensor, double, OptionalTensor, bool>;  // weight, eps, bias, is_centred
using ProjectionFields = std::tuple<const PackedMatrix*, OptionalTensor>;  // weight, bias
using ActivationFields = std::tuple<std::string, bool, double, double>;  // name, is_gated, limit, alpha
using RotationFields = std::tuple<Tensor, Tensor, bool>;  // cos, signed_sin, is_interleaved
// keys, values, and the scales of both, where they are int8
using CacheFields = std::tuple<Tensor, Tensor, OptionalTensor, OptionalTensor>;
using LatentCacheFields = std::tuple<Tensor, Tensor>;  // keys, values
// clip, norms of queries and of keys, norms_turned
using HeadFields =
    std::tuple<double, std::optional<NormFields>, std::optional<NormFields>, bool>;
// block_tables, first_rows, contexts, sliding_window, attention_chunk
using PlanFields = std::tuple<Tensor, Tensor, Tensor, int64_t, int64_t>;
// scale, soft_cap, alibi_slopes, distance_bias, sinks
using ScoreFields = std::tuple<double, std::optional<double>, OptionalTensor, OptionalTensor,
                               OptionalTensor>;

// scoring, chosen, is_normalised, scale, groups, chosen_groups, group_members, choice_bias
using RuleFields =
    std::tuple<std::string, int64_t, bool, double, int64_t, int64_t, int64_t, OptionalTensor>;
// gates and ups, downs, and the biases of both
using ExpertFields =
    std::tuple<const MatrixStack*, const MatrixStack*, OptionalTensor, OptionalTensor>;

// to_latent, to_key, from_latent: see LatentAttentionCall
using ExpansionFields = std::tuple<const MatrixStack*, const MatrixStack*, const MatrixStack*>;
// ids, values, counts by slot; the rows' slots
using BiasFields = std::tuple<Tensor, Tensor, Tensor, Tensor>;
// repetition, frequency, presence; tokens by history row; the rows' history_rows, lengths, output_starts
using PenaltyFields = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
// allowed, the rows' places
using MaskFields = std::tuple<Tensor, Tensor>;

// Raises where there is none of this name.
Activation activation_named(const std::string& name);

// The norm of rows of this size, checked.
Norm norm_of(const NormFields& fields, int64_t size);

// Ids, log-probabilities, scores with noise, and the rows that failed.
using Sampled = std::tuple<Tensor, Tensor, Tensor, std::vector<int64_t>>;

// The operators of one instruction set.
class Operators {
 public:
  explicit Operators(const Kernels& kernels) : kernels_(kernels) {}

  bool rounds_to_bfloat16() const { return kernels_.rounds_to_bfloat16; }

  PackedMatrix pack(const Tensor& source, const std::string& format) const {
    TORCH_CHECK(source.dim() == 2, "source must be a matrix, got ", source.sizes());
    return pack_parts({{0, source}}, source.size(0), source.size(1), format);
  }
  PackedMatrix pack_parts(const SourceParts& parts, int64_t outputs, int64_t inputs,
                          const std::string& format) const {
    return PackedMatrix(kernels_, parts, outputs, inputs, format);
  }

  Tensor norm(const Tensor& x, const NormFields& norm, const OptionalTensor& addend) const;

  // Adds scale * update to the stream in place; returns the stream's norm.
  Tensor add_and_norm(const Tensor& stream, const Tensor& update, double scale,
                      const NormFields& norm) const;

  Tensor activate(const Tensor& x, const ActivationFields& activation) const;

  // Both change x.
  void add(const Tensor& x, const Tensor& table, const OptionalTensor& ids, double scale) const;
  void scale(const Tensor& x, const OptionalTensor& bias, double scale, double cap) const;

  // cos and signed_sin.
  std::tuple<Tensor, Tensor> rotation(const Tensor& positions, const Tensor& frequencies,
                                      double factor, bool is_interleaved) const;

  Tensor temperature(const Tensor& positions, double strength, int64_t interval) const;

  // Ids and weights of the experts of every row.
  std::tuple<Tensor, Tensor> route(const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, const RuleFields& rule) const;

  // addend + the weighted sum of what a row's experts make of it.
  Tensor mix_experts(const Tensor& x, const Tensor& ids, const Tensor& weights,
                     const ExpertFields& experts, const ActivationFields& activation,
                     bool weighs_inputs, const OptionalTensor& addend) const;

  // Changes y.
  void gate(const Tensor& x, const Tensor& weight, const Tensor& y) const;

  // Ids and log-softmax of the greatest scores, and the rows where there is no such thing.
  std::tuple<Tensor, Tensor, std::vector<int64_t>> choose_best(const Tensor& scores) const;

  // The same of the tokens that are chosen or drawn, and their scores with noise.
  Sampled sample(const Tensor& scores, const Tensor& temperature, const Tensor& top_k,
                 const Tensor& top_p, const Tensor& min_p, const Tensor& draws,
                 const Tensor& seeds, const Tensor& positions, int64_t first_id) const;

  // The best scores of each row of a part of the vocabulary: see CandidatesCall.
  Tensor candidates(const Tensor& scores, int64_t first_id, int64_t count) const;

  // What `sample` returns, from the candidates of all parts: see ChoiceCall.
  Sampled choose(const Tensor& packets, const Tensor& top_k, const Tensor& top_p,
                 const Tensor& min_p, const Tensor& draws, const Tensor& seeds,
                 const Tensor& positions) const;

  // Change scores in place: see ChangeCall.
  void change_scores(const Tensor& scores, const std::optional<BiasFields>& biases,
                     const std::optional<PenaltyFields>& penalties,
                     const std::optional<MaskFields>& masks) const;

  // addend + down(activation(up(norm(x))))
  Tensor mlp(const Tensor& x, const std::optional<NormFields>& norm, const ProjectionFields& up,
             const ActivationFields& activation, const ProjectionFields& down,
             const OptionalTensor& addend) const;

  // The first half of attention: queries; keys and values go to the cache.
  Tensor project_and_store(const Tensor& x, const std::optional<NormFields>& norm,
                           const ProjectionFields& qkv, const HeadFields& heads,
                           const std::optional<RotationFields>& rotation,
                           const OptionalTensor& temperature, const CacheFields& cache,
                           const Tensor& slots) const;

  // Changes qkv, keys and values.
  void store_heads(const Tensor& qkv, const HeadFields& heads,
                   const std::optional<RotationFields>& rotation, const OptionalTensor& temperature,
                   const CacheFields& cache, const Tensor& slots) const;

  Tensor attend(const Tensor& query, const CacheFields& stored, const PlanFields& plan,
                double scale, double soft_cap,
                const OptionalTensor& alibi_slopes, const OptionalTensor& distance_bias,
                const OptionalTensor& sinks) const;

  // Of latent attention: see LatentCall and LatentAttentionCall. The first changes query and keys;
  // the last is both.
  void store_latent(const Tensor& key, const NormFields& norm, const Tensor& query,
                    const RotationFields& rotation, const Tensor& keys, const Tensor& slots) const;
  Tensor attend_latent(const Tensor& query, const ExpansionFields& expansion, const Tensor& keys,
                       const Tensor& block_tables, const Tensor& first_rows,
                       const Tensor& contexts, double scale) const;
  Tensor latent_attention(const Tensor& query, const Tensor& key, const NormFields& norm,
                          const RotationFields& rotation, const ExpansionFields& expansion,
                          const LatentCacheFields& cache, const Tensor& slots, const PlanFields& plan,
                          double scale) const;

  // addend + output(attention of norm(x)). Changes keys and values.
  Tensor attention(const Tensor& x, const std::optional<NormFields>& norm,
                   const ProjectionFields& qkv, const HeadFields& heads,
                   const std::optional<RotationFields>& rotation, const OptionalTensor& temperature,
                   const CacheFields& cache, const Tensor& slots, const PlanFields& plan,
                   const ScoreFields& scores, const ProjectionFields& output,
                   const OptionalTensor& addend) const;

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
