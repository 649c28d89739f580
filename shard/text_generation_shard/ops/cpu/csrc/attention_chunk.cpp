// Attention of several rows of one request (a prompt's chunk) over all of its context.
//
// The rows of a tile are (token, query head) pairs of one KV head. Keys and values are taken in
// tiles of tokens, turned to float32 and laid out so that both products are small matrix products:
//
//   scores [rows, tokens] = query [rows, head_dim] x keys^T [head_dim, tokens]
//   sums [rows, value_dim] = sums * factor + weights [rows, tokens] x values [tokens, value_dim]
#include "attention.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kTileTokens = 64;

// C += A B, all row-major; B has `Panels` times sixteen columns.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  int64_t inner;
  float* c;
  int64_t c_stride;
};

template <int Rows, int Panels>
void add_product(const Product& product) {
  Float16x sums[Rows][Panels];
  for (int row = 0; row < Rows; ++row) {
    for (int panel = 0; panel < Panels; ++panel) {
      sums[row][panel] = load(product.c + row * product.c_stride + panel * kLanes);
    }
  }
  for (int64_t i = 0; i < product.inner; ++i) {
    Float16x right[Panels];
    for (int panel = 0; panel < Panels; ++panel) {
      right[panel] = load(product.b + i * product.b_stride + panel * kLanes);
    }
#pragma GCC unroll 8
    for (int row = 0; row < Rows; ++row) {
      const Float16x left = broadcast(product.a[row * product.a_stride + i]);
#pragma GCC unroll 4
      for (int panel = 0; panel < Panels; ++panel) {
        sums[row][panel] = fma(left, right[panel], sums[row][panel]);
      }
    }
  }
  for (int row = 0; row < Rows; ++row) {
    for (int panel = 0; panel < Panels; ++panel) {
      store(product.c + row * product.c_stride + panel * kLanes, sums[row][panel]);
    }
  }
}

template <int Panels, int Rows = kMatmulRows>
void add_product_rows(const Product& product, int64_t rows) {
  if (rows >= Rows) {
    add_product<Rows, Panels>(product);
  } else if constexpr (Rows > 1) {
    add_product_rows<Panels, Rows - 1>(product, rows);
  }
}

// C [rows, columns] += A B for any number of rows; columns is a multiple of sixteen.
void add_matmul(Product product, int64_t rows, int64_t columns) {
  const Product whole = product;
  for (int64_t column = 0; column < columns;) {
    const bool is_wide = columns - column >= kMatmulPanels * kLanes;
    for (int64_t row = 0; row < rows; row += kMatmulRows) {
      product.a = whole.a + row * whole.a_stride;
      product.b = whole.b + column;
      product.c = whole.c + row * whole.c_stride + column;
      if (is_wide) {
        add_product_rows<kMatmulPanels>(product, rows - row);
      } else {
        add_product_rows<1>(product, rows - row);
      }
    }
    column += (is_wide ? kMatmulPanels : 1) * kLanes;
  }
}

// Memory of one task, in floats.
struct ChunkMemory {
  float* query;   // [rows][head_dim], scaled
  float* sums;    // [rows][value_dim]
  float* scores;  // [rows][kTileTokens], then the weights
  float* keys;    // [head_dim][kTileTokens]
  float* values;  // [kTileTokens][value_dim]
  RunningSoftmax* softmax;  // [rows]

  ChunkMemory(Scratch& scratch, int64_t rows, int64_t head_dim, int64_t value_dim) {
    const int64_t floats =
        rows * (head_dim + value_dim + kTileTokens) + kTileTokens * (head_dim + value_dim);
    query = static_cast<float*>(
        scratch.reserve(floats * 4 + rows * static_cast<int64_t>(sizeof(RunningSoftmax))));
    sums = query + rows * head_dim;
    scores = sums + rows * value_dim;
    keys = scores + rows * kTileTokens;
    values = keys + kTileTokens * head_dim;
    softmax = reinterpret_cast<RunningSoftmax*>(values + kTileTokens * value_dim);
  }
};

// Tokens times query heads.
inline int64_t rows_of(const AttentionTask& task) {
  return (task.rows.end - task.rows.begin) * (task.heads.end - task.heads.begin);
}

// Row (token, head) of the task: rows of one token lie side by side, as its query heads do.
template <class Body>
void for_task_rows(const AttentionTask& task, const Body& body) {
  int64_t index = 0;
  for (int64_t row = task.rows.begin; row < task.rows.end; ++row) {
    for (int64_t head = task.heads.begin; head < task.heads.end; ++head) body(index++, row, head);
  }
}

void load_query(const AttentionCall& call, const AttentionTask& task, const ChunkMemory& memory) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  for_task_rows(task, [&](int64_t index, int64_t row, int64_t head) {
    const float* query = call.query + row * call.query_stride + head * head_dim;
    memory.softmax[index] = first_softmax(call, head);
    for (int64_t i = 0; i < padded; i += kLanes) {
      const Float16x x = load_some(query + i, head_dim - i);
      store(memory.query + index * padded + i, x * broadcast(call.scale));
    }
    if (call.cache.type == CacheType::kInt8) spread(memory.query + index * padded, head_dim);
  });
  const int64_t num_sums = rows_of(task) * padded_value_dim(call);
  for (int64_t i = 0; i < num_sums; i += kLanes) store(memory.sums + i, zeros());
}

// Keys and values of the positions [tokens.begin, tokens.end); zeros behind them.
template <class Element>
void load_context(const AttentionCall& call, const AttentionTask& task, Range tokens,
                  const ChunkMemory& memory) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  const int64_t value_dim = call.cache.value_dim, padded_value = padded_value_dim(call);
  const int64_t kv_head = kv_head_of(call, task.heads.begin);
  Places places(call, task.request, tokens.begin);
  for (int64_t token = 0; token < kTileTokens; ++token) {
    const bool is_real = tokens.begin + token < tokens.end;
    const int64_t place = is_real ? places.next() : 0;
    const Element* key = key_at<Element>(call, place, kv_head);
    const Element* value = value_at<Element>(call, place, kv_head);
    const Float16x key_scale = broadcast(key_scale_at<Element>(call, place, kv_head));
    const Float16x value_scale = broadcast(value_scale_at<Element>(call, place, kv_head));
    for (int64_t i = 0; i < padded; i += kLanes) {
      float lanes[kLanes];
      store(lanes, is_real ? load_some(key + i, head_dim - i) * key_scale : zeros());
      for (int lane = 0; lane < kLanes; ++lane) {
        memory.keys[(i + lane) * kTileTokens + token] = lanes[lane];
      }
    }
    for (int64_t i = 0; i < padded_value; i += kLanes) {
      store(memory.values + token * padded_value + i,
            is_real ? load_some(value + i, value_dim - i) * value_scale : zeros());
    }
  }
}

// Scores to weights, and what was summed before to the new scale.
void weigh(const AttentionCall& call, const AttentionTask& task, Range tokens,
           const ChunkMemory& memory) {
  const int64_t padded = padded_value_dim(call), length = tokens.end - tokens.begin;
  for_task_rows(task, [&](int64_t index, int64_t row, int64_t head) {
    const int64_t position = task.first_position + row - task.rows.begin;
    const int64_t first = first_visible(call, position) - tokens.begin;
    const int64_t end = position + 1 - tokens.begin;
    const Range visible{first < 0 ? 0 : first, end < length ? end : length};
    float* scores = memory.scores + index * kTileTokens;
    if (visible.begin >= visible.end) {
      for (int64_t i = 0; i < kTileTokens; ++i) scores[i] = 0;
      return;
    }
    adjust_scores(call, head, tokens.begin - position, scores, kTileTokens);
    const Float16x factor =
        broadcast(memory.softmax[index].update(scores, kTileTokens, visible));
    float* sums = memory.sums + index * padded;
    for (int64_t i = 0; i < padded; i += kLanes) store(sums + i, load(sums + i) * factor);
  });
}

template <class Element>
void attend_tile(const AttentionCall& call, const AttentionTask& task, Range tokens,
                 const ChunkMemory& memory) {
  const int64_t rows = rows_of(task);
  const int64_t padded = padded_head_dim(call), padded_value = padded_value_dim(call);
  load_context<Element>(call, task, tokens, memory);
  for (int64_t i = 0; i < rows * kTileTokens; i += kLanes) store(memory.scores + i, zeros());
  add_matmul({memory.query, padded, memory.keys, kTileTokens, padded, memory.scores, kTileTokens},
             rows, kTileTokens);
  weigh(call, task, tokens, memory);
  add_matmul({memory.scores, kTileTokens, memory.values, padded_value, kTileTokens, memory.sums,
              padded_value},
             rows, padded_value);
}

void store_rows(const AttentionCall& call, const AttentionTask& task, const ChunkMemory& memory) {
  const int64_t value_dim = call.cache.value_dim, padded = padded_value_dim(call);
  for_task_rows(task, [&](int64_t index, int64_t row, int64_t head) {
    const Float16x share = broadcast(1.0f / memory.softmax[index].total);
    float* out = call.out + (row * call.num_heads + head) * value_dim;
    for (int64_t i = 0; i < value_dim; i += kLanes) {
      store_some(out + i, load(memory.sums + index * padded + i) * share, value_dim - i);
    }
  });
}

}  // namespace

template <class Element>
void attend_chunk(const AttentionCall& call, const AttentionTask& task) {
  static thread_local Scratch scratch;
  const int64_t num_rows = task.rows.end - task.rows.begin;
  const ChunkMemory memory(scratch, rows_of(task), padded_head_dim(call), padded_value_dim(call));
  load_query(call, task, memory);
  const int64_t end = task.first_position + num_rows;
  for (int64_t first = first_visible(call, task.first_position); first < end;
       first += kTileTokens) {
    const int64_t tile_end = first + kTileTokens;
    attend_tile<Element>(call, task, {first, tile_end < end ? tile_end : end}, memory);
  }
  store_rows(call, task, memory);
}

template void attend_chunk<float>(const AttentionCall&, const AttentionTask&);
template void attend_chunk<BFloat16>(const AttentionCall&, const AttentionTask&);
template void attend_chunk<int8_t>(const AttentionCall&, const AttentionTask&);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
