// What the kernels are asked for, and the table in which every instruction set offers them.
//
// Plain pointers and sizes: nothing here knows torch. Shapes are row-major; a stride counts elements
// from one row to the next. The caller has checked everything; kernels cannot fail.
//
// All code but this header lives in a namespace of its instruction set: an inline function that two
// object files share would be linked once, for a processor that may not be this one.
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

// The greatest score of each row, the first of equal ones, and its log-softmax.
struct BestCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  int64_t* ids;     // [rows]; -1 where a score is NaN or infinite, or all are minus infinity
  float* logprobs;  // [rows]
  int num_threads;
};

// What is added to single scores, by slot: `counts[slot]` tokens, each once.
struct Biases {
  const int32_t* ids;    // [any, capacity], or null: there are none
  const float* values;   // [any, capacity]
  const int64_t* counts;  // [any]
  const int64_t* slots;   // [rows]
  int64_t capacity;
};

// Of the tokens that a row has: all before lengths, or the output from output_starts on.
struct Penalties {
  const int32_t* tokens;  // [any], of this stride between rows, or null: there are none
  int64_t stride;
  const int64_t *history_rows, *lengths, *output_starts;  // [rows]
  const float *repetition, *frequency, *presence;         // [rows]; off: 1, 0 and 0
};

// Bit token % 32 of word token / 32 of a mask is 0 where the score becomes minus infinity.
struct Masks {
  const uint32_t* allowed;  // [any, words], or null: there are none
  const int64_t* places;    // [rows], the row's mask; negative: none
  int64_t words;
};

// Scores in place: biases, penalties and masks, in this order.
struct ChangeCall {
  float* scores;  // [rows, size], of this stride between rows
  int64_t rows, size, stride;
  Biases biases;
  Penalties penalties;
  Masks masks;
  int num_threads;
};

// One token for each row: the greatest score, or a draw, after temperature, top-k, top-p and min-p.
struct SampleCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  const float *temperature, *top_p, *min_p;  // [rows]; off: 1, 1 and 0
  const int64_t* top_k;                      // [rows]; off: 0
  const bool* draws;                         // [rows]; false: the greatest score
  const int64_t *seeds, *positions;          // [rows], what the noise of a draw depends on
  int64_t first_id;  // the token of the first score, a multiple of 4: its noise depends on it, too
  int64_t* ids;      // [rows], from 0 for the first score; -1 as for BestCall
  float* logprobs;   // [rows], log-softmax of what the filters leave
  float* values;     // [rows], the chosen scores with their noise
  int num_threads;
};

// The best scores of each row of a part of the vocabulary, one packet each: `count` scores, as many
// tokens, ascending; the bound above which these are all, minus infinity if there are no others; and
// the logarithm of the sum of e^score of the whole part. What is not used is minus infinity, and -1.
// Both numbers are NaN where a score is no number.
struct CandidatesCall {
  const float* scores;  // [rows, size]
  int64_t rows, size, stride;
  int64_t first_id, count;
  float* packets;  // [rows, 2 * count + 2]
  int num_threads;
};

// As SampleCall, from the packets of all parts; -1 where they do not suffice, too.
struct ChoiceCall {
  SampleCall sample;     // without scores and temperature
  const float* packets;  // [parts, rows, 2 * count + 2]
  int64_t parts, count;
};

// Where the keys and values of one layer lie: keys are [num_blocks, block_size, num_kv_heads,
// head_dim], values the same with value_dim, which may be less. Values lie value_stride elements
// apart: value_dim in a tensor of their own, head_dim where they are the first part of the keys.
enum class CacheType { kFloat32, kBFloat16, kInt8 };
struct Cache {
  void* keys;
  void* values;
  // Of kInt8: what the numbers of a row of head_dim are multiplied by, [num_blocks, num_kv_heads,
  // block_size]; keys are spread (spread.h). Else null.
  BFloat16* key_scales;
  BFloat16* value_scales;
  CacheType type;
  int64_t block_size, num_kv_heads, head_dim, value_dim, value_stride;
};

// What becomes of projected queries, keys and values, in this order: all are clipped, queries and
// keys normed, turned by their positions and, if norms come later, normed; queries are multiplied by
// their row's temperature. The queries stay in place; keys and values go to the cache, where both are
// head_dim wide.
struct HeadsCall {
  float* qkv;               // [rows, num_heads + 2 * num_kv_heads, head_dim]
  float clip;               // largest magnitude; 0: any
  Norm query_norm, key_norm;
  int64_t query_norm_stride, key_norm_stride;  // from the weight of a head to the next one's, or 0
  bool norms_turned;
  // Dimension i turns with i + rotary_dim / 2: both halves of cos are equal, the first half of
  // signed_sin is negative. Interleaved, 2i turns with 2i + 1, whose values stand side by side.
  const float* cos;         // [rows, rotary_dim]
  const float* signed_sin;  // [rows, rotary_dim]
  int64_t rotary_dim;       // dimensions from here on stay as they are; 0: all
  bool is_interleaved;
  const float* temperature;  // [rows], or null
  const int64_t* slots;      // [rows], block id * block_size + offset
  int64_t rows, num_heads;
  Cache cache;
  int num_threads;
};

// Causal attention; all pointers but the cache's and out's are read only.
struct AttentionCall {
  const float* query;  // [rows, num_heads, head_dim], of this stride between rows
  int64_t query_stride, num_heads;
  Cache cache;
  const int32_t* block_tables;  // [requests, max_blocks]
  int64_t max_blocks, requests;
  const int64_t* first_rows;  // [requests + 1], rows of a request lie one after the other
  const int64_t* contexts;    // [requests], tokens up to and with a request's last row
  int64_t sliding_window;     // tokens that a row sees; 0: all before it
  int64_t attention_chunk;    // a row sees its own of the chunks of so many tokens; 0: no chunks
  float scale;
  float soft_cap;             // c: a score becomes c tanh(score / c); 0: none
  const float* alibi_slopes;  // [num_heads]: slope * (key - query position) is added; or null
  const float* distance_bias;  // [num_heads, distances]: by query - key position; or null
  int64_t distances;           // farther ones take the last entry
  const float* sinks;         // [num_heads]: a score more, whose share goes nowhere; or null
  float* out;  // [rows, num_heads, value_dim]
  int num_threads;
};

// What a token leaves for latent attention, and its queries: the latent vector is normed, the key that
// all heads share and every head's query are turned by the position, and vector and key are cached.
struct LatentCall {
  const float* key;  // [rows, latent_dim + turned_dim], of this stride between rows
  int64_t key_stride;
  Norm norm;     // of the latent vector
  float* query;  // [rows, num_heads, plain_dim + turned_dim], turned in place
  int64_t rows, num_heads, latent_dim, plain_dim, turned_dim;
  const float* cos;         // [rows, turned_dim], as HeadsCall has them
  const float* signed_sin;  // [rows, turned_dim]
  bool is_interleaved;
  const int64_t* slots;  // [rows]
  Cache cache;           // of one head of latent_dim + turned_dim
  int num_threads;
};

// Causal attention to latent vectors, of which a head makes its keys' first part and its values. The
// matrices are applied to queries and sums ("absorbed"), or to the context: see latent_attention.cpp.
struct LatentAttentionCall {
  void (*linear)(const LinearCall&);  // that of the instruction set
  const float* query;                 // [rows, num_heads, plain_dim + turned_dim]
  int64_t num_heads, plain_dim, turned_dim, latent_dim, value_dim;
  const Weights* to_latent;    // [latent_dim, plain_dim] of each head
  const Weights* to_key;       // the same turned over, [plain_dim, latent_dim]
  const Weights* from_latent;  // [value_dim, latent_dim]
  Cache cache;                 // keys [latent | turned], whose first part are the values
  const int32_t* block_tables;  // the rest as AttentionCall has it
  int64_t max_blocks, requests;
  const int64_t* first_rows;
  const int64_t* contexts;
  float scale;
  float* out;  // [rows, num_heads, value_dim]
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

// A kernel that the binding calls, so that recording.h can write down the call and repeat it. Kernels
// use `compute` alone.
template <class Call>
struct Kernel {
  constexpr Kernel(void (*kernel)(const Call&)) : compute(kernel) {}
  void operator()(const Call& call) const;

  void (*compute)(const Call&);
};

struct Kernels {
  // Whether products with bfloat16 weights round their activations to bfloat16.
  bool rounds_to_bfloat16 = false;
  int64_t (*packed_bytes)(const Weights&);  // that `panels` must have room for
  void (*pack)(const PackCall&);
  Kernel<LinearCall> linear;
  Kernel<RowsCall> rows;
  Kernel<NormCall> norm;
  Kernel<ActivationCall> activate;
  Kernel<AddCall> add;
  Kernel<ScaleCall> scale;
  Kernel<RotationCall> rotation;
  Kernel<TemperatureCall> temperature;
  Kernel<RouteCall> route;
  Kernel<MixCall> mix_experts;
  Kernel<GateCall> gate;
  Kernel<BestCall> choose_best;
  Kernel<ChangeCall> change_scores;
  Kernel<SampleCall> sample;
  Kernel<CandidatesCall> candidates;
  Kernel<ChoiceCall> choose;
  Kernel<HeadsCall> store_heads;
  Kernel<AttentionCall> attend;
  Kernel<LatentCall> store_latent;
  Kernel<LatentAttentionCall> attend_latent;
  Kernel<ConvCall> causal_conv;
  Kernel<ScanCall> selective_scan;
};

namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
// What AVX-512 with bfloat16 does in another way than `avx512`.
namespace avx512_bf16 {
void linear(const LinearCall& call);
void attend(const AttentionCall& call);
}
// And what a processor with AMX does in another way than that.
namespace amx {
void linear(const LinearCall& call);
}

}  // namespace cpu_operators
