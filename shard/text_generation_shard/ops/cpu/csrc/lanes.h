// Rows, sixteen lanes at a time: what several of the light kernels do.
#pragma once

#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Call `body(first, count)` for the lanes of [0, size): sixteen at a time, then what is left.
template <class Body>
inline void for_lanes(int64_t size, const Body& body) {
  int64_t first = 0;
  for (; first + kLanes <= size; first += kLanes) body(first, kLanes);
  if (first < size) body(first, static_cast<int>(size - first));
}

// The largest magnitude of x; not a number where one is not finite.
inline float largest_magnitude(const float* x, int64_t size) {
  Float16x most = zeros(), none = zeros();
  for_lanes(size, [&](int64_t i, int count) {
    const Float16x lanes = load_some(x + i, count);
    most = maximum(absolute(lanes), most);
    none = none + (lanes - lanes);
  });
  return largest(most) + sum(none);
}

// 1 / (1 + e^-x)
inline Float16x sigmoid(Float16x x) {
  return broadcast(1.0f) / (broadcast(1.0f) + exponential(zeros() - x));
}

// c tanh(x / c); not a number where x is not.
inline Float16x capped(Float16x x, float c) {
  const Float16x far = broadcast(100.0f * c);
  const Float16x near = minimum(far, maximum(zeros() - far, x));  // the second operand, if not a number
  return broadcast(c) * hyperbolic_tangent(near * broadcast(1.0f / c)) + (near - near);
}

// What a norm multiplies by after it has subtracted.
struct NormFactors {
  float mean, scale;
};

// Of one row that has been read into a cache; mean 0 where the norm is not centred.
inline NormFactors norm_factors(const float* x, int64_t size, const Norm& norm) {
  float mean = 0;
  if (norm.is_centred) {
    Float16x total = zeros();
    for_lanes(size, [&](int64_t i, int count) { total = total + load_some(x + i, count); });
    mean = sum(total) / static_cast<float>(size);
  }
  Float16x squares = zeros();
  const Float16x centre = broadcast(mean);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const Float16x distance = load(x + i) - centre;
    squares = fma(distance, distance, squares);
  }
  float total = sum(squares);
  for (; i < size; ++i) total += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / __builtin_sqrtf(total / static_cast<float>(size) + norm.eps)};
}

// Lanes of the norm of a row with these factors.
inline Float16x normed(Float16x x, NormFactors factors, const Norm& norm, const float* weight,
                       int64_t i, int count) {
  const Float16x scaled = (x - broadcast(factors.mean)) * broadcast(factors.scale);
  const Float16x weighted = scaled * load_some(weight + i, count);
  return norm.bias == nullptr ? weighted : weighted + load_some(norm.bias + i, count);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
