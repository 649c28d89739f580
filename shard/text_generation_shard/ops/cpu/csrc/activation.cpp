// Activations of feed-forward layers, with and without a gate.
#include "lanes.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// 1 - erf(z) for z >= 0, with a relative error below 2e-7 where z is small: t e^(-z^2) P(t) with
// t = 1 / (1 + 0.37 z), P fitted to the least relative error (1.7e-8) in [0, 9.5].
Float16x erfc(Float16x z) {
  const Float16x t = broadcast(1.0f) / fma(broadcast(0.37f), z, broadcast(1.0f));
  Float16x series = broadcast(0.06192319485f);
  for (const float factor : {-0.3032734684f, 0.4868426953f, -0.2853127784f, 0.3108025713f,
                             0.1065201111f, 0.2062540813f, 0.2074298317f, 0.2088137445f}) {
    series = fma(series, t, broadcast(factor));
  }
  return t * series * exponential(zeros() - z * z);
}

struct Silu {
  Float16x operator()(Float16x x) const { return x * sigmoid(x); }
};

// x P(X <= x) for a normal X (Hendrycks and Gimpel, 2016).
struct Gelu {
  Float16x operator()(Float16x x) const {
    const Float16x tail = erfc(absolute(x) * broadcast(0.70710678118654752f)) * broadcast(0.5f);
    // For x > 0 that is 1 - tail: max(x, 0) - |x| tail for both.
    return maximum(zeros(), x) - absolute(x) * tail;
  }
};

// Its approximation x / 2 (1 + tanh(u)), which is x sigmoid(2 u).
struct GeluTanh {
  Float16x operator()(Float16x x) const {
    const Float16x cubic = fma(x * x, broadcast(0.044715f), broadcast(1.0f));
    return x * sigmoid(x * cubic * broadcast(2.0f * 0.79788456080286536f));
  }
};

struct Relu {
  // The second operand, if it is not a number.
  Float16x operator()(Float16x x) const { return maximum(zeros(), x); }
};

// log(1 + e^x) = max(x, 0) + log(1 + e) with e = e^-|x|, and log(1 + e) = 2 artanh(e / (2 + e)), whose
// argument is at most 1 / 3, by its series.
struct Softplus {
  Float16x operator()(Float16x x) const {
    const Float16x e = exponential(zeros() - absolute(x));
    const Float16x s = e / (e + broadcast(2.0f)), square = s * s;
    Float16x series = broadcast(2.0f / 15);
    for (const float factor : {2.0f / 13, 2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f}) {
      series = fma(series, square, broadcast(factor));
    }
    return fma(series, s, maximum(zeros(), x));  // the second operand, if it is not a number
  }
};

void clamped_swiglu_row(const ActivationCall& call, const float* gates, float* out) {
  const Float16x limit = broadcast(call.limit), alpha = broadcast(call.alpha);
  for_lanes(call.size, [&](int64_t i, int count) {
    const Float16x gate = minimum(limit, load_some(gates + i, count));
    Float16x up = load_some(gates + call.size + i, count);
    up = minimum(limit, maximum(zeros() - limit, up));
    store_some(out + i, (up + broadcast(1.0f)) * gate * sigmoid(gate * alpha), count);
  });
}

template <class Function>
void activate_row(const ActivationCall& call, const float* x, float* out) {
  const Function function;
  for_lanes(call.size, [&](int64_t i, int count) {
    const Float16x made = function(load_some(x + i, count));
    store_some(out + i, call.is_gated ? made * load_some(x + call.size + i, count) : made, count);
  });
}

}  // namespace

void activate(const ActivationCall& call) {
  using Row = void (*)(const ActivationCall&, const float*, float*);
  constexpr Row rows[] = {activate_row<Silu>, activate_row<Gelu>, activate_row<GeluTanh>,
                          activate_row<Relu>, activate_row<Softplus>, clamped_swiglu_row};
  const Row compute = rows[static_cast<int>(call.activation)];
  const int64_t width = call.is_gated ? 2 * call.size : call.size;
  share_out_rows(call.num_threads, call.rows, 4 * call.size, [&](int64_t row) {
    compute(call, call.x + row * width, call.out + row * call.size);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
