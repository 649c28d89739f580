// What the kernels of attention are asked for: as calls_layers.h has it.
#pragma once

#include "calls_layers.h"

namespace cpu_operators {

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

}  // namespace cpu_operators
