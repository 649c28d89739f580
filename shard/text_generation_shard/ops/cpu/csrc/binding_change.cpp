// Changes of single scores, as Python sees them.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Numbers of rows, each in [least, limit).
void check_range(const Tensor& numbers, const char* name, int64_t least, int64_t limit) {
  check_values([number = numbers.const_data_ptr<int64_t>(), count = numbers.numel(), name, least,
                limit] {
    for (int64_t i = 0; i < count; ++i) {
      TORCH_CHECK(least <= number[i] && number[i] < limit, name, " must lie in [", least, ", ",
                  limit, "), got ", number[i]);
    }
  });
}

Biases biases_of(const BiasFields& fields, int64_t rows) {
  const auto& [ids, values, counts, slots] = fields;
  TORCH_CHECK(ids.dim() == 2, "bias ids must be [slots, capacity], got ", ids.sizes());
  check_dense(ids, "bias ids", at::kInt, -1);
  check_dense(values, "bias values", at::kFloat, ids.numel());
  check_dense(counts, "bias counts", at::kLong, ids.size(0));
  check_dense(slots, "slots", at::kLong, rows);
  check_slots(slots, ids.size(0));
  return {ids.const_data_ptr<int32_t>(), values.const_data_ptr<float>(),
          counts.const_data_ptr<int64_t>(), slots.const_data_ptr<int64_t>(), ids.size(1)};
}

Penalties penalties_of(const PenaltyFields& fields, int64_t rows) {
  const auto& [repetition, frequency, presence, tokens, history_rows, lengths, output_starts] =
      fields;
  check_dense(repetition, "repetition", at::kFloat, rows);
  check_dense(frequency, "frequency", at::kFloat, rows);
  check_dense(presence, "presence", at::kFloat, rows);
  TORCH_CHECK(tokens.device().is_cpu() && tokens.scalar_type() == at::kInt && tokens.dim() == 2 &&
                  (tokens.stride(1) == 1 || tokens.size(1) <= 1),
              "history must be int32 [sequences, width] with contiguous rows");
  check_dense(history_rows, "history_rows", at::kLong, rows);
  check_dense(lengths, "lengths", at::kLong, rows);
  check_dense(output_starts, "output_starts", at::kLong, rows);
  check_range(history_rows, "history_rows", 0, tokens.size(0));
  check_range(lengths, "lengths", 0, tokens.size(1) + 1);
  check_range(output_starts, "output_starts", 0, INT64_MAX);
  return {tokens.const_data_ptr<int32_t>(),      tokens.stride(0),
          history_rows.const_data_ptr<int64_t>(), lengths.const_data_ptr<int64_t>(),
          output_starts.const_data_ptr<int64_t>(), repetition.const_data_ptr<float>(),
          frequency.const_data_ptr<float>(),      presence.const_data_ptr<float>()};
}

Masks masks_of(const MaskFields& fields, int64_t rows, int64_t size) {
  const auto& [allowed, places] = fields;
  const int64_t words = (size + 31) / 32;
  TORCH_CHECK(allowed.dim() == 2 && allowed.size(1) == words, "allowed must be [any, ", words,
              "], got ", allowed.sizes());
  check_dense(allowed, "allowed", at::kInt, -1);
  check_dense(places, "places", at::kLong, rows);
  check_range(places, "places", INT64_MIN, allowed.size(0));
  return {reinterpret_cast<const uint32_t*>(allowed.const_data_ptr<int32_t>()),
          places.const_data_ptr<int64_t>(), words};
}

}  // namespace

void Operators::change_scores(const Tensor& scores, const std::optional<BiasFields>& biases,
                              const std::optional<PenaltyFields>& penalties,
                              const std::optional<MaskFields>& masks) const {
  check_rows(scores, "scores", -1);
  const int64_t rows = scores.size(0), size = scores.size(1);
  ChangeCall call{};
  call.scores = scores.mutable_data_ptr<float>();
  call.rows = rows;
  call.size = size;
  call.stride = scores.stride(0);
  if (biases.has_value()) call.biases = biases_of(*biases, rows);
  if (penalties.has_value()) call.penalties = penalties_of(*penalties, rows);
  if (masks.has_value()) call.masks = masks_of(*masks, rows, size);
  call.num_threads = num_threads();
  kernels_.change_scores(call);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
