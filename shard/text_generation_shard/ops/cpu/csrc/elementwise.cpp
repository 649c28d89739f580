// What a step does once: scaled embeddings, learned positions, rotations, and the end of the logits.
#include "lanes.h"
#include "parallel.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kElementsPerPiece = 8192;

void add_row(const AddCall& call, int64_t row) {
  float* x = call.x + row * call.size;
  const float* added = call.table + (call.ids == nullptr ? row : call.ids[row]) * call.size;
  const Float16x scale = broadcast(call.scale);
  for_lanes(call.size, [&](int64_t i, int count) {
    store_some(x + i, fma(load_some(added + i, count), scale, load_some(x + i, count)), count);
  });
}

void scale_piece(const ScaleCall& call, float* x, const float* bias, int64_t size) {
  for_lanes(size, [&](int64_t i, int count) {
    Float16x made = load_some(x + i, count);
    if (bias != nullptr) made = made + load_some(bias + i, count);
    made = made * broadcast(call.scale);
    store_some(x + i, call.cap > 0 ? capped(made, call.cap) : made, count);
  });
}

void rotation_row(const RotationCall& call, int64_t row) {
  const float* frequencies = call.frequencies + row * call.frequencies_stride;
  float* cos = call.cos + row * 2 * call.half;
  float* signed_sin = call.signed_sin + row * 2 * call.half;
  const auto position = static_cast<float>(call.positions[row]);
  const int64_t step = call.is_interleaved ? 2 : 1, apart = call.is_interleaved ? 1 : call.half;
  for (int64_t i = 0; i < call.half; ++i) {
    const float angle = position * frequencies[i];
    const int64_t first = i * step, second = first + apart;
    cos[first] = cos[second] = __builtin_cosf(angle) * call.factor;
    signed_sin[second] = __builtin_sinf(angle) * call.factor;
    signed_sin[first] = -signed_sin[second];
  }
}

}  // namespace

void add(const AddCall& call) {
  share_out_rows(call.num_threads, call.rows, call.size, [&](int64_t row) { add_row(call, row); });
}

void scale(const ScaleCall& call) {
  const int64_t pieces = (call.size + kElementsPerPiece - 1) / kElementsPerPiece;
  share_out(call.num_threads, call.rows * pieces, 1, [&](Range some) {
    for (int64_t unit = some.begin; unit < some.end; ++unit) {
      const int64_t first = unit % pieces * kElementsPerPiece, left = call.size - first;
      float* x = call.x + unit / pieces * call.size + first;
      const float* bias = call.bias == nullptr ? nullptr : call.bias + first;
      scale_piece(call, x, bias, left < kElementsPerPiece ? left : kElementsPerPiece);
    }
  });
}

void temperature(const TemperatureCall& call) {
  share_out_rows(call.num_threads, call.rows, 16, [&](int64_t row) {
    const auto intervals = static_cast<float>((call.positions[row] + 1) / call.interval);
    call.out[row] = 1.0f + call.strength * __builtin_log1pf(intervals);
  });
}

void rotation(const RotationCall& call) {
  share_out_rows(call.num_threads, call.rows, 32 * call.half, [&](int64_t row) {
    rotation_row(call, row);
  });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
