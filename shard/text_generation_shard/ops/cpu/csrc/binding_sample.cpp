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

Sampled room_for(int64_t rows, const Tensor& like) {
  return {at::empty({rows}, like.options().dtype(at::kLong)), at::empty({rows}, like.options()),
          at::empty({rows}, like.options()), {}};
}

// What rows ask for, and where their tokens go.
SampleCall sample_call(int64_t rows, const Tensor& top_k, const Tensor& top_p, const Tensor& min_p,
                       const Tensor& draws, const Tensor& seeds, const Tensor& positions,
                       Sampled& sampled) {
  check_dense(top_k, "top_k", at::kLong, rows);
  check_dense(top_p, "top_p", at::kFloat, rows);
  check_dense(min_p, "min_p", at::kFloat, rows);
  check_dense(draws, "draws", at::kBool, rows);
  check_dense(seeds, "seeds", at::kLong, rows);
  check_dense(positions, "positions", at::kLong, rows);
  SampleCall call{};
  call.rows = rows;
  call.top_p = top_p.const_data_ptr<float>();
  call.min_p = min_p.const_data_ptr<float>();
  call.top_k = top_k.const_data_ptr<int64_t>();
  call.draws = draws.const_data_ptr<bool>();
  call.seeds = seeds.const_data_ptr<int64_t>();
  call.positions = positions.const_data_ptr<int64_t>();
  call.ids = std::get<0>(sampled).mutable_data_ptr<int64_t>();
  call.logprobs = std::get<1>(sampled).mutable_data_ptr<float>();
  call.values = std::get<2>(sampled).mutable_data_ptr<float>();
  call.num_threads = num_threads();
  return call;
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

Sampled Operators::sample(const Tensor& scores, const Tensor& temperature, const Tensor& top_k,
                          const Tensor& top_p, const Tensor& min_p, const Tensor& draws,
                          const Tensor& seeds, const Tensor& positions, int64_t first_id) const {
  check_rows(scores, "scores", -1);
  const int64_t rows = scores.size(0);
  TORCH_CHECK(scores.size(1) > 0, "scores must not be empty");
  TORCH_CHECK(first_id >= 0 && first_id % 4 == 0, "first_id must be a multiple of 4");
  check_dense(temperature, "temperature", at::kFloat, rows);
  Sampled sampled = room_for(rows, scores);
  SampleCall call = sample_call(rows, top_k, top_p, min_p, draws, seeds, positions, sampled);
  call.scores = scores.const_data_ptr<float>();
  call.size = scores.size(1);
  call.stride = scores.stride(0);
  call.temperature = temperature.const_data_ptr<float>();
  call.first_id = first_id;
  kernels_.sample(call);
  std::get<3>(sampled) = failed_rows(std::get<0>(sampled));
  return sampled;
}

Tensor Operators::candidates(const Tensor& scores, int64_t first_id, int64_t count) const {
  check_rows(scores, "scores", -1);
  TORCH_CHECK(0 < count && count <= scores.size(1), "count must be that of some scores");
  Tensor packets = at::empty({scores.size(0), 2 * count + 2}, scores.options());
  kernels_.candidates({scores.const_data_ptr<float>(), scores.size(0), scores.size(1),
                       scores.stride(0), first_id, count, packets.mutable_data_ptr<float>(),
                       num_threads()});
  return packets;
}

Sampled Operators::choose(const Tensor& packets, const Tensor& top_k, const Tensor& top_p,
                          const Tensor& min_p, const Tensor& draws, const Tensor& seeds,
                          const Tensor& positions) const {
  TORCH_CHECK(packets.dim() == 3, "packets must be [parts, rows, numbers]");
  check_dense(packets, "packets", at::kFloat, packets.numel());
  const int64_t rows = packets.size(1);
  Sampled sampled = room_for(rows, packets);
  kernels_.choose({sample_call(rows, top_k, top_p, min_p, draws, seeds, positions, sampled),
                   packets.const_data_ptr<float>(), packets.size(0), packets.size(2) / 2 - 1});
  std::get<3>(sampled) = failed_rows(std::get<0>(sampled));
  return sampled;
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
