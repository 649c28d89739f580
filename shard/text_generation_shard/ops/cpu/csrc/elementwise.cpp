// Norm, gate and rotary embedding: what stands between the products.
#include "parallel.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Call `body(first, count)` for the lanes of [0, size): sixteen at a time, then what is left.
template <class Body>
void for_lanes(int64_t size, const Body& body) {
  int64_t first = 0;
  for (; first + kLanes <= size; first += kLanes) body(first, kLanes);
  if (first < size) body(first, static_cast<int>(size - first));
}

void norm_row(const NormCall& call, int64_t row) {
  float* stream = call.stream + row * call.size;
  float* out = call.out + row * call.size;
  Float16x squares = zeros();
  for_lanes(call.size, [&](int64_t i, int count) {
    Float16x x = load_some(stream + i, count);
    if (call.update != nullptr) {
      x = x + load_some(call.update + row * call.size + i, count);
      store_some(stream + i, x, count);
    }
    squares = fma(x, x, squares);
  });
  const float mean = sum(squares) / static_cast<float>(call.size);
  const Float16x scale = broadcast(1.0f / __builtin_sqrtf(mean + call.eps));
  for_lanes(call.size, [&](int64_t i, int count) {
    const Float16x x = load_some(stream + i, count) * scale;
    store_some(out + i, x * load_some(call.weight + i, count), count);
  });
}

void gate_row(const GateCall& call, int64_t row) {
  const float* gate = call.gate_up + row * 2 * call.size;
  const float* up = gate + call.size;
  float* out = call.out + row * call.size;
  for_lanes(call.size, [&](int64_t i, int count) {
    const Float16x x = load_some(gate + i, count);
    const Float16x sigmoid = broadcast(1.0f) / (broadcast(1.0f) + exponential(zeros() - x));
    store_some(out + i, x * sigmoid * load_some(up + i, count), count);
  });
}

// One head of one row: each half turns with the other.
//   out[i]          = x[i] cos[i] + x[i + half] signed_sin[i]
//   out[i + half]   = x[i + half] cos[i + half] + x[i] signed_sin[i + half]
void turn_head(const float* x, const float* cos, const float* signed_sin, int64_t rotary_dim,
               float* out) {
  const int64_t half = rotary_dim / 2;
  for_lanes(half, [&](int64_t i, int count) {
    const Float16x first = load_some(x + i, count), second = load_some(x + half + i, count);
    const Float16x turned_first = fma(second, load_some(signed_sin + i, count),
                                      first * load_some(cos + i, count));
    const Float16x turned_second = fma(first, load_some(signed_sin + half + i, count),
                                       second * load_some(cos + half + i, count));
    store_some(out + i, turned_first, count);
    store_some(out + half + i, turned_second, count);
  });
}

void store_head(const float* x, int64_t head_dim, float* out) {
  for_lanes(head_dim, [&](int64_t i, int count) {
    store_some(out + i, load_some(x + i, count), count);
  });
}
void store_head(const float* x, int64_t head_dim, BFloat16* out) {
  for_lanes(head_dim, [&](int64_t i, int count) {
    BFloat16 narrow[kLanes];
    store(narrow, load_some(x + i, count));
    for (int lane = 0; lane < count; ++lane) out[i + lane] = narrow[lane];
  });
}

template <class Element>
void rotate_row(const RotaryCall& call, int64_t row) {
  const int64_t head_dim = call.cache.head_dim, num_kv_heads = call.cache.num_kv_heads;
  float* heads = call.qkv + row * (call.num_heads + 2 * num_kv_heads) * head_dim;
  const float* cos = call.cos + row * call.rotary_dim;
  const float* signed_sin = call.signed_sin + row * call.rotary_dim;
  const int64_t num_turned = call.num_heads + num_kv_heads;
  for (int64_t head = 0; head < num_turned; ++head) {
    float* turned = heads + head * head_dim;
    turn_head(turned, cos, signed_sin, call.rotary_dim, turned);
  }
  const float* key = heads + call.num_heads * head_dim;
  const int64_t place = call.slots[row] * num_kv_heads * head_dim;
  for (int64_t head = 0; head < num_kv_heads; ++head) {
    const int64_t offset = head * head_dim;
    const float* value = key + num_kv_heads * head_dim;
    store_head(key + offset, head_dim, static_cast<Element*>(call.cache.keys) + place + offset);
    store_head(value + offset, head_dim, static_cast<Element*>(call.cache.values) + place + offset);
  }
}

}  // namespace

void rms_norm(const NormCall& call) {
  share_out_rows(call.num_threads, call.rows, call.size, [&](int64_t row) { norm_row(call, row); });
}

void silu_mul(const GateCall& call) {
  share_out_rows(call.num_threads, call.rows, 4 * call.size, [&](int64_t row) { gate_row(call, row); });
}

void rotate_and_store(const RotaryCall& call) {
  const int64_t width = (call.num_heads + 2 * call.cache.num_kv_heads) * call.cache.head_dim;
  share_out_rows(call.num_threads, call.rows, width, [&](int64_t row) {
    if (call.cache.is_bfloat16) {
      rotate_row<BFloat16>(call, row);
    } else {
      rotate_row<float>(call, row);
    }
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
