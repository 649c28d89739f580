// Attention to latent vectors (DeepSeek-AI, 2024), in one of two forms:
//
//             query                          of a cached [ latent | turned key ]
//   absorbed  [ to_latent(plain) | turned ]  all is the key, latent the value; from_latent(sum)
//   expanded  [ plain | turned ]             [ to_key(latent) | turned ]; from_latent(latent)
//
// The first reads the context as it lies, once for all heads, but a pair of query and key costs as
// many products as the latent vector is wide, twice; the second makes keys and values of the whole
// context first. Single rows take the first, a prompt's chunk what costs less.
#include <vector>

#include "attention.h"
#include "layout.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

void attend(const AttentionCall& call);

namespace {

// How many times as many products a second the matrices' kernels do as attention's: between 1 (AVX2)
// and 3 (bfloat16 weights where the processor multiplies them).
constexpr double kProductSpeed = 1.5;
// Rows in a task of the matrices' products.
constexpr int64_t kTaskRows = 64;
// Absorbed rows that are computed at one time: bounds the memory.
constexpr int64_t kAbsorbedRows = 256;
// Numbers of keys and values that are made at one time, of as many heads as fit, but at least one.
constexpr int64_t kExpandedFloats = 4 << 20;

int64_t query_dim(const LatentAttentionCall& call) { return call.plain_dim + call.turned_dim; }
int64_t cached_dim(const LatentAttentionCall& call) { return call.latent_dim + call.turned_dim; }
int64_t rows_of(const LatentAttentionCall& call, int64_t request) {
  return call.first_rows[request + 1] - call.first_rows[request];
}

bool is_expanded(const LatentAttentionCall& call, int64_t request) {
  const auto rows = static_cast<double>(rows_of(call, request));
  const auto context = static_cast<double>(call.contexts[request]);
  const double pairs = rows * (context - (rows - 1) / 2);
  const double matrices =
      static_cast<double>(call.latent_dim * (call.plain_dim + call.value_dim)) / kProductSpeed;
  const double absorbed =
      pairs * static_cast<double>(call.latent_dim + cached_dim(call)) + rows * matrices;
  const double expanded =
      pairs * static_cast<double>(query_dim(call) + call.value_dim) + context * matrices;
  return rows > 1 && expanded < absorbed;
}

// Rows of vectors, one for each head.
template <class Float>
struct HeadRows {
  Float* first;
  int64_t stride;       // from one row to the next
  int64_t head_stride;  // from one head to the next

  Float* at(int64_t row, int64_t head) const { return first + row * stride + head * head_stride; }
};

// out[row][head] = x[row][head] W_head^T
void multiply_heads(const LatentAttentionCall& call, HeadRows<const float> x, int64_t rows,
                    const Weights* matrices, int64_t heads, HeadRows<float> out) {
  const int64_t pieces = ceil_div(rows, kTaskRows);
  share_out(call.num_threads, heads * pieces, 1, [&](Range some) {
    for (int64_t index = some.begin; index < some.end; ++index) {
      const int64_t head = index / pieces, piece = index % pieces;
      const int64_t begin = piece * rows / pieces, end = (piece + 1) * rows / pieces;
      call.linear({x.at(begin, head), end - begin, x.stride, matrices[head], nullptr, nullptr,
                   out.at(begin, head), out.stride, 1});
    }
  });
}

void copy_heads(const LatentAttentionCall& call, HeadRows<const float> x, int64_t rows,
                int64_t heads, int64_t size, HeadRows<float> out) {
  share_out_rows(call.num_threads, rows, heads * size, [&](int64_t row) {
    for (int64_t head = 0; head < heads; ++head) {
      __builtin_memcpy(out.at(row, head), x.at(row, head),
                       static_cast<size_t>(size) * sizeof(float));
    }
  });
}

// What both forms ask of `attend`, but for keys, values and heads.
AttentionCall attention_of(const LatentAttentionCall& call, int64_t request,
                           const std::vector<int64_t>& first_rows) {
  AttentionCall attention{};
  attention.requests = static_cast<int64_t>(first_rows.size()) - 1;
  attention.first_rows = first_rows.data();
  attention.contexts = call.contexts + request;
  attention.scale = call.scale;
  attention.num_threads = call.num_threads;
  return attention;
}

// All heads of some requests.
void attend_absorbed(const LatentAttentionCall& call, Range requests) {
  static thread_local Scratch scratch;
  const int64_t first = call.first_rows[requests.begin];
  const int64_t rows = call.first_rows[requests.end] - first;
  const int64_t heads = call.num_heads, width = cached_dim(call), latent = call.latent_dim;
  auto* absorbed = static_cast<float*>(scratch.reserve(4 * rows * heads * (width + latent)));
  float* sums = absorbed + rows * heads * width;
  const HeadRows<const float> query{call.query + first * heads * query_dim(call),
                                    heads * query_dim(call), query_dim(call)};
  const HeadRows<float> wide{absorbed, heads * width, width};
  multiply_heads(call, query, rows, call.to_latent, heads, wide);
  copy_heads(call, {query.first + call.plain_dim, query.stride, query.head_stride}, rows, heads,
             call.turned_dim, {wide.first + latent, wide.stride, wide.head_stride});
  std::vector<int64_t> first_rows;
  for (int64_t request = requests.begin; request <= requests.end; ++request) {
    first_rows.push_back(call.first_rows[request] - first);
  }
  AttentionCall attention = attention_of(call, requests.begin, first_rows);
  attention.query = absorbed;
  attention.query_stride = wide.stride;
  attention.num_heads = heads;
  attention.cache = call.cache;
  attention.block_tables = call.block_tables + requests.begin * call.max_blocks;
  attention.max_blocks = call.max_blocks;
  attention.out = sums;
  attend(attention);
  multiply_heads(call, {sums, heads * latent, latent}, rows, call.from_latent, heads,
                 {call.out + first * heads * call.value_dim, heads * call.value_dim,
                  call.value_dim});
}

// Memory of an expanded request, in floats.
struct Expanded {
  int64_t heads;  // at one time
  float* cached;  // [context, cached_dim]
  float* keys;    // [context, heads, query_dim]
  float* values;  // [context, heads, value_dim]
  float* sums;    // [rows, heads, value_dim]

  Expanded(const LatentAttentionCall& call, Scratch& scratch, int64_t rows, int64_t context) {
    const int64_t widths = query_dim(call) + call.value_dim;
    const int64_t fitting = kExpandedFloats / (context * widths);
    heads = fitting < 1 ? 1 : fitting < call.num_heads ? fitting : call.num_heads;
    const int64_t floats = context * (cached_dim(call) + heads * widths) +
                           rows * heads * call.value_dim;
    cached = static_cast<float*>(scratch.reserve(4 * floats));
    keys = cached + context * cached_dim(call);
    values = keys + context * heads * query_dim(call);
    sums = values + context * heads * call.value_dim;
  }
};

template <class Element>
void gather(const LatentAttentionCall& call, int64_t request, float* out) {
  const int64_t width = cached_dim(call), block_size = call.cache.block_size;
  const int32_t* blocks = call.block_tables + request * call.max_blocks;
  share_out_rows(call.num_threads, call.contexts[request], width, [&](int64_t token) {
    const int64_t place = blocks[token / block_size] * block_size + token % block_size;
    const Element* key = static_cast<const Element*>(call.cache.keys) + place * width;
    for (int64_t i = 0; i < width; i += kLanes) {
      store_some(out + token * width + i, load_some(key + i, width - i), width - i);
    }
  });
}

// Keys and values of some heads.
void expand(const LatentAttentionCall& call, int64_t context, Range heads, const Expanded& memory) {
  const int64_t count = heads.end - heads.begin, width = cached_dim(call);
  const HeadRows<const float> cached{memory.cached, width, 0};
  const HeadRows<float> keys{memory.keys, count * query_dim(call), query_dim(call)};
  multiply_heads(call, cached, context, call.to_key + heads.begin, count, keys);
  copy_heads(call, {cached.first + call.latent_dim, width, 0}, context, count, call.turned_dim,
             {keys.first + call.plain_dim, keys.stride, keys.head_stride});
  multiply_heads(call, cached, context, call.from_latent + heads.begin, count,
                 {memory.values, count * call.value_dim, call.value_dim});
}

void attend_expanded(const LatentAttentionCall& call, int64_t request) {
  static thread_local Scratch scratch;
  const int64_t rows = rows_of(call, request), context = call.contexts[request];
  const int64_t first = call.first_rows[request], width = query_dim(call);
  const Expanded memory(call, scratch, rows, context);
  if (call.cache.type == CacheType::kBFloat16) {
    gather<BFloat16>(call, request, memory.cached);
  } else {
    gather<float>(call, request, memory.cached);
  }
  const std::vector<int64_t> first_rows{0, rows};
  constexpr int32_t only_block = 0;
  for (int64_t head = 0; head < call.num_heads; head += memory.heads) {
    const int64_t left = call.num_heads - head;
    const int64_t count = left < memory.heads ? left : memory.heads;
    expand(call, context, {head, head + count}, memory);
    AttentionCall attention = attention_of(call, request, first_rows);
    attention.query = call.query + (first * call.num_heads + head) * width;
    attention.query_stride = call.num_heads * width;
    attention.num_heads = count;
    attention.cache = {.keys = memory.keys, .values = memory.values, .type = CacheType::kFloat32,
                       .block_size = context, .num_kv_heads = count, .head_dim = width,
                       .value_dim = call.value_dim, .value_stride = call.value_dim};
    attention.block_tables = &only_block;
    attention.max_blocks = 1;
    attention.out = memory.sums;
    attend(attention);
    const int64_t stride = call.num_heads * call.value_dim;
    copy_heads(call, {memory.sums, count * call.value_dim, call.value_dim}, rows, count,
               call.value_dim,
               {call.out + first * stride + head * call.value_dim, stride, call.value_dim});
  }
}

}  // namespace

void attend_latent(const LatentAttentionCall& call) {
  for (int64_t request = 0; request < call.requests;) {
    if (is_expanded(call, request)) {
      attend_expanded(call, request++);
      continue;
    }
    Range some{request, request + 1};
    int64_t rows = rows_of(call, request);
    for (; some.end < call.requests && !is_expanded(call, some.end); ++some.end) {
      rows += rows_of(call, some.end);
      if (rows > kAbsorbedRows) break;
    }
    attend_absorbed(call, some);
    request = some.end;
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
