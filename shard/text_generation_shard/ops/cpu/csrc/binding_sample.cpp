// The choice of tokens, as Python sees it.
#include "binding.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Rows whose id says that their scores are not numbers. Of a recording, who replays it looks.
std::vector<int64_t> failed_rows(const Tensor& ids) {
  std::vector<int64_t> failed;
  if (Recording::active()) return failed;
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < ids.numel(); ++row) {
    if (id[row] < 0) failed.push_back(row);
  }
  return failed;
}

}  // namespace

std::tuple<Tensor, Tensor, std::vector<int64_t>> Operators::choose_best(
    const Tensor& scores) const {
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

std::tuple<Tensor, Tensor, std::vector<int64_t>> Operators::sample(
    const Tensor& scores, const Tensor& temperature, const Tensor& top_k, const Tensor& top_p,
    const Tensor& min_p, const Tensor& draws, const Tensor& seeds, const Tensor& positions) const {
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

void Operators::mask_scores(const Tensor& scores, const Tensor& rows, const Tensor& allowed) const {
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

}  // namespace cpu_operators::CPU_OPERATORS_ISA
