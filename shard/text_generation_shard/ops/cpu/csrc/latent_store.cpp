// What a token leaves for latent attention, and its queries: normed, turned, stored.
#include "attention.h"
#include "lanes.h"
#include "turn.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

void turn(const LatentCall& call, int64_t row, float* x) {
  const float* cos = call.cos + row * call.turned_dim;
  const float* signed_sin = call.signed_sin + row * call.turned_dim;
  const auto by = call.is_interleaved ? turn_pairs : turn_halves;
  by(cos, signed_sin, call.turned_dim, x);
}

template <class Element>
void store_key(const LatentCall& call, int64_t row) {
  static thread_local Scratch scratch;
  const float* latent = call.key + row * call.key_stride;
  Element* out =
      static_cast<Element*>(call.cache.keys) + call.slots[row] * call.cache.head_dim;
  const NormFactors factors = norm_factors(latent, call.latent_dim, call.norm);
  for_lanes(call.latent_dim, [&](int64_t i, int count) {
    const Float16x x = load_some(latent + i, count);
    store_some(out + i, normed(x, factors, call.norm, call.norm.weight, i, count), count);
  });
  auto* turned = static_cast<float*>(scratch.reserve(4 * call.turned_dim));
  __builtin_memcpy(turned, latent + call.latent_dim,
                   static_cast<size_t>(call.turned_dim) * sizeof(float));
  turn(call, row, turned);
  for_lanes(call.turned_dim, [&](int64_t i, int count) {
    store_some(out + call.latent_dim + i, load_some(turned + i, count), count);
  });
}

void store_row(const LatentCall& call, int64_t row) {
  if (call.cache.type == CacheType::kBFloat16) {
    store_key<BFloat16>(call, row);
  } else {
    store_key<float>(call, row);
  }
  const int64_t head_dim = call.plain_dim + call.turned_dim;
  for (int64_t head = 0; head < call.num_heads; ++head) {
    turn(call, row, call.query + (row * call.num_heads + head) * head_dim + call.plain_dim);
  }
}

}  // namespace

void store_latent(const LatentCall& call) {
  const int64_t width = call.cache.head_dim + call.num_heads * call.turned_dim;
  share_out_rows(call.num_threads, call.rows, width, [&](int64_t row) { store_row(call, row); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
