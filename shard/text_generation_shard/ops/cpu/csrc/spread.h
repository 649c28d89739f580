// What kinds of numbers a cache has, and how keys are turned before they are rounded to 8 bits.
#pragma once

#include "lanes.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Call `body` with a number of the cache's type.
template <class Body>
inline void with_element(const Cache& cache, const Body& body) {
  switch (cache.type) {
    case CacheType::kFloat32: return body(float{});
    case CacheType::kBFloat16: return body(BFloat16{});
    case CacheType::kInt8: return body(int8_t{});
  }
}

// Where a row's scale lies: those of a block and a head side by side.
inline int64_t scale_index(const Cache& cache, int64_t place, int64_t kv_head) {
  const int64_t block = place / cache.block_size, offset = place % cache.block_size;
  return (block * cache.num_kv_heads + kv_head) * cache.block_size + offset;
}

inline float widened(BFloat16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

// Sums and differences of lanes this far apart: a + b in the place of a, a - b in that of b.
template <int Distance>
inline Float16x add_and_subtract(Float16x x) {
  float signs[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) signs[lane] = (lane & Distance) == 0 ? 1.0f : -1.0f;
  return fma(x, load(signs), swap_lanes<Distance>(x));
}

// In place: x [size] times the Walsh-Hadamard matrix of ops/rounded_rows.py, with the same roundings.
// Blocks of less than sixteen lie within lanes; greater ones have no lanes left over.
inline void spread(float* x, int64_t size) {
  const int64_t block = size & -size;
  const auto root = __builtin_sqrt(static_cast<double>(block));
  const Float16x factor = broadcast(static_cast<float>(1.0 / root));
  for_lanes(size, [&](int64_t i, int count) {
    Float16x lanes = load_some(x + i, count);
    if (block > 1) lanes = add_and_subtract<1>(lanes);
    if (block > 2) lanes = add_and_subtract<2>(lanes);
    if (block > 4) lanes = add_and_subtract<4>(lanes);
    if (block > 8) lanes = add_and_subtract<8>(lanes);
    store_some(x + i, block > kLanes ? lanes : lanes * factor, count);
  });
  for (int64_t distance = kLanes; distance < block; distance *= 2) {
    const Float16x scale = 2 * distance == block ? factor : broadcast(1.0f);
    for (int64_t i = 0; i < size; i += kLanes) {
      if ((i & distance) != 0) continue;
      const Float16x a = load(x + i), b = load(x + i + distance);
      store(x + i, (a + b) * scale);
      store(x + i + distance, (a - b) * scale);
    }
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
