// The short convolution and the selective scan of Mamba: every channel by itself, lanes are channels.
#include "parallel.h"
#include "simd.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

Float16x silu(Float16x x) {
  return x / (broadcast(1.0f) + exponential(zeros() - x));
}

// Sixteen channels of one sequence.
//   inputs   past[0 .. kernel - 2] | x[0 .. rows - 1]
//   out[t]   of inputs t .. t + kernel - 1
void convolve(const ConvCall& call, int64_t request, int64_t channel, int count) {
  const int64_t num_past = call.kernel - 1, begin = call.first_rows[request];
  const int64_t rows = call.first_rows[request + 1] - begin;
  float* past = call.past + call.slots[request] * num_past * call.channels + channel;
  const float* x = call.x + begin * call.x_stride + channel;
  const auto input = [&](int64_t index) {
    const float* p = index < num_past ? past + index * call.channels
                                      : x + (index - num_past) * call.x_stride;
    return load_some(p, count);
  };
  const Float16x bias = call.bias == nullptr ? zeros() : load_some(call.bias + channel, count);
  for (int64_t t = 0; t < rows; ++t) {
    Float16x total = bias;
    for (int64_t k = 0; k < call.kernel; ++k) {
      total = fma(load_some(call.weight + k * call.channels + channel, count), input(t + k), total);
    }
    store_some(call.out + (begin + t) * call.channels + channel, silu(total), count);
  }
  for (int64_t i = 0; i < num_past; ++i) {  // ascending: what is read lies ahead of what is written
    store_some(past + i * call.channels, input(rows + i), count);
  }
}

// Sixteen channels of one sequence, the state in registers where its size is known here.
template <int64_t kStateSize>
void scan(const ScanCall& call, int64_t request, int64_t channel, int count) {
  const int64_t size = kStateSize > 0 ? kStateSize : call.state_size, channels = call.channels;
  float* stored = call.states + call.slots[request] * size * channels + channel;
  Float16x state[kStateSize > 0 ? kStateSize : kMaxStateSize];
  Float16x rates[kStateSize > 0 ? kStateSize : kMaxStateSize];
  for (int64_t n = 0; n < size; ++n) {
    state[n] = load_some(stored + n * channels, count);
    rates[n] = load_some(call.rates + n * channels + channel, count);
  }
  const Float16x skip = load_some(call.skip + channel, count);
  for (int64_t row = call.first_rows[request]; row < call.first_rows[request + 1]; ++row) {
    const Float16x value = load_some(call.values + row * channels + channel, count);
    const Float16x step = load_some(call.steps + row * channels + channel, count);
    const Float16x gate = load_some(call.gates + row * call.gates_stride + channel, count);
    const float* writes = call.writes + row * call.writes_stride;
    const float* reads = call.reads + row * call.reads_stride;
    const Float16x driven = step * value;
    Float16x total = skip * value;
    for (int64_t n = 0; n < size; ++n) {
      state[n] = fma(exponential(step * rates[n]), state[n], driven * broadcast(writes[n]));
      total = fma(state[n], broadcast(reads[n]), total);
    }
    store_some(call.out + row * channels + channel, total * silu(gate), count);
  }
  for (int64_t n = 0; n < size; ++n) store_some(stored + n * channels, state[n], count);
}

// Call `body(request, channel, count)` for every sequence and its channels, sixteen at a time; whoever
// has some channels has them of all sequences. `work`: elements that one channel takes.
template <class Body>
void for_channels(int64_t requests, int64_t channels, int64_t work, int num_threads,
                  const Body& body) {
  const int64_t blocks = (channels + kLanes - 1) / kLanes;
  share_out_rows(num_threads, blocks, work * kLanes, [&](int64_t block) {
    const int64_t channel = block * kLanes, left = channels - channel;
    for (int64_t request = 0; request < requests; ++request) {
      body(request, channel, left < kLanes ? static_cast<int>(left) : kLanes);
    }
  });
}

}  // namespace

void causal_conv(const ConvCall& call) {
  const int64_t work = call.first_rows[call.requests] * call.kernel;
  for_channels(call.requests, call.channels, work, call.num_threads,
               [&](int64_t request, int64_t channel, int count) {
                 convolve(call, request, channel, count);
               });
}

void selective_scan(const ScanCall& call) {
  const int64_t work = 8 * call.first_rows[call.requests] * call.state_size;
  for_channels(call.requests, call.channels, work, call.num_threads,
               [&](int64_t request, int64_t channel, int count) {
                 if (call.state_size == 16) {
                   scan<16>(call, request, channel, count);
                 } else {
                   scan<0>(call, request, channel, count);
                 }
               });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
