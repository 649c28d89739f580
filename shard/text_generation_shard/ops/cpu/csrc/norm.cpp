// The norms of the stream.
#include "lanes.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

void norm_row(const NormCall& call, int64_t row) {
  const int64_t begin = row * call.size;
  float* stream = call.stream + row * call.stride;
  if (call.update != nullptr) {
    const Float16x scale = broadcast(call.scale);
    for_lanes(call.size, [&](int64_t i, int count) {
      const Float16x update = load_some(call.update + begin + i, count);
      store_some(stream + i, fma(update, scale, load_some(stream + i, count)), count);
    });
  }
  const NormFactors factors = norm_factors(stream, call.size, call.norm);
  for_lanes(call.size, [&](int64_t i, int count) {
    Float16x x = load_some(stream + i, count);
    x = normed(x, factors, call.norm, call.norm.weight, i, count);
    if (call.addend != nullptr) x = x + load_some(call.addend + begin + i, count);
    store_some(call.out + begin + i, x, count);
  });
}

}  // namespace

void norm(const NormCall& call) {
  share_out_rows(call.num_threads, call.rows, call.size, [&](int64_t row) { norm_row(call, row); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
