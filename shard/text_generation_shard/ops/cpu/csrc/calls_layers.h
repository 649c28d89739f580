// What the kernels of a model's layers are asked for, but attention.
//
// Plain pointers and sizes: nothing here knows torch. Shapes are row-major; a stride counts elements
// from one row to the next. The caller has checked everything; kernels cannot fail.
#pragma once

#include <cstdint>

namespace cpu_operators {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

enum class WeightFormat { kFloat32, kBFloat16, kInt8, kInt4 };

// A packed weight matrix, see layout.h and layout_integer.h.
struct Weights {
  WeightFormat format;
  int64_t outputs, inputs;
  void* panels;
};

// Pack a matrix from rows that lie anywhere: [inputs] each, null for zeros; float32 for kFloat32,
// bfloat16 for kBFloat16, one of both for kInt8 and kInt4.
struct PackCall {
  const void* const* rows;  // [outputs]
  bool is_bfloat16;
  Weights weights;
  int num_threads;
};

// out[row] = x[row] W^T + bias + addend[row]. Null: no bias, no addend.
struct LinearCall {
  const float* x;  // [rows, inputs]
  int64_t rows, x_stride;
  Weights weights;
  const float* bias;    // [outputs]
  const float* addend;  // [rows, outputs], of out's stride
  float* out;           // [rows, outputs], apart from all the others
  int64_t out_stride;
  int num_threads;
};

// out[i] = row ids[i] of W.
struct RowsCall {
  const int64_t* ids;  // [rows], each in [0, outputs)
  int64_t rows;
  Weights weights;
  float* out;  // [rows, inputs]
  int num_threads;
};

// How a row x is normed: x / rms(x) * weight, or centred: (x - mean(x)) / sqrt(var(x) + eps) *
// weight. A bias, if there is one, is added.
struct Norm {
  const float* weight;  // [size]; null: the row stays as it is
  const float* bias;    // [size], or null
  float eps;
  bool is_centred;
};

// stream[row] += scale * update[row] (null: nothing); out[row] = norm(stream[row]) + addend[row]
// (null: nothing).
struct NormCall {
  float* stream;        // [rows, size], of this stride between rows
  int64_t stride;
  const float* update;  // [rows, size]
  float scale;
  Norm norm;
  const float* addend;  // [rows, size]
  int64_t rows, size;
  float* out;  // [rows, size]
  int num_threads;
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu, kSoftplus, kClampedSwiGLU };

// out = activation(x), or gated: activation(gate) * up, where a row of x is its gate and then its
// up. kClampedSwiGLU is gated: (up + 1) * gate * sigmoid(alpha * gate), of gates up to `limit` and ups
// of no larger magnitude.
struct ActivationCall {
  const float* x;      // [rows, size], or gated [rows, 2 * size]
  int64_t rows, size;
  Activation activation;
  bool is_gated;
  float limit, alpha;
  float* out;  // [rows, size]; without a gate it may be x
  int num_threads;
};

// x[row] += scale * table[ids[row]]; null: the row of the same number.
struct AddCall {
  float* x;            // [rows, size]
  const float* table;  // [any, size]
  const int64_t* ids;  // [rows]
  float scale;
  int64_t rows, size;
  int num_threads;
};

// x = (x + bias) * scale, and then cap * tanh(x / cap); without a cap where it is 0.
struct ScaleCall {
  float* x;           // [rows, size]
  const float* bias;  // [size], or null
  float scale, cap;
  int64_t rows, size;
  int num_threads;
};

// cos and signed_sin of positions[row] * frequencies, times `factor`, as HeadsCall takes them.
struct RotationCall {
  const int64_t* positions;  // [rows]
  const float* frequencies;  // [half], of this stride between rows, which may be 0
  int64_t frequencies_stride, rows, half;
  float factor;
  bool is_interleaved;
  float *cos, *signed_sin;  // [rows, 2 * half]
  int num_threads;
};

// out = 1 + strength * log(1 + floor((position + 1) / interval))
struct TemperatureCall {
  const int64_t* positions;  // [rows]
  float strength;
  int64_t interval, rows;
  float* out;  // [rows]
  int num_threads;
};

enum class Scoring { kSoftmax, kSigmoid, kSparseMixer };

// Which experts compute a row, see ops/route.py: the best by score + choice_bias, in order, of the
// best groups; weighed by their scores.
struct RouteCall {
  const float* x;            // [rows, hidden]
  const float* weight;       // [experts, hidden]
  const float* bias;         // [experts], or null
  const float* choice_bias;  // [experts], or null
  int64_t rows, hidden, experts;
  Scoring scoring;
  int64_t groups, chosen_groups;  // experts lie in equal groups, one after the other
  int64_t group_members;          // a group is as good as so many of its best together
  int64_t chosen;                 // experts of a row
  bool is_normalised;
  float scale;
  int64_t* ids;    // [rows, chosen]
  float* weights;  // [rows, chosen]
  int num_threads;
};

// out[row] = addend[row] + sum over a row's experts, in their order, of weight * down(activation(
// up(x[row]))); or with weighs_inputs of down(activation(up(weight * x[row]))).
struct MixCall {
  void (*linear)(const LinearCall&);  // that of the instruction set
  const float* x;        // [rows, hidden]
  const int64_t* ids;    // [rows, chosen], each in [0, experts)
  const float* weights;  // [rows, chosen]
  int64_t rows, hidden, chosen, experts;
  bool weighs_inputs;
  const Weights *up, *down;        // of every expert; all ups, and all downs, are of one shape
  const float *up_bias, *down_bias;  // [experts, outputs], or null
  Activation activation;           // with a gate
  float limit, alpha;
  const float* addend;  // [rows, hidden], or null
  float* out;           // [rows, hidden]
  int num_threads;
};

// y[row] *= sigmoid(x[row] . weight)
struct GateCall {
  const float* x;       // [rows, hidden]
  const float* weight;  // [hidden]
  float* y;             // [rows, size]
  int64_t rows, hidden, size;
  int num_threads;
};

// Largest state of a channel that the scan takes.
inline constexpr int64_t kMaxStateSize = 256;

// out = silu(bias + sum over k of weight[k] * input kernel - 1 - k rows before), by channel; `past`
// holds the inputs before a sequence's first row, and afterwards those before its next.
struct ConvCall {
  const float* x;  // [rows, channels], of this stride between rows
  int64_t x_stride, channels, kernel;
  const float* weight;  // [kernel, channels]
  const float* bias;    // [channels], or null
  float* past;          // [slots, kernel - 1, channels]
  const int64_t* slots;       // [requests]
  const int64_t* first_rows;  // [requests + 1], rows of a request lie one after the other
  int64_t requests;
  float* out;  // [rows, channels]
  int num_threads;
};

// The selective scan, see ops/selective_scan.py; `states` are carried on.
struct ScanCall {
  const float *values, *steps;  // [rows, channels]
  const float* gates;           // [rows, channels], of this stride between rows
  int64_t gates_stride;
  const float *writes, *reads;  // [rows, state_size], of these strides between rows
  int64_t writes_stride, reads_stride;
  const float* rates;  // [state_size, channels]
  const float* skip;   // [channels]
  int64_t channels, state_size;
  float* states;              // [slots, state_size, channels]
  const int64_t* slots;       // [requests]
  const int64_t* first_rows;  // [requests + 1]
  int64_t requests;
  float* out;  // [rows, channels]
  int num_threads;
};

}  // namespace cpu_operators
