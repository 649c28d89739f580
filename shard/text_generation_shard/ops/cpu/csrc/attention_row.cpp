// Attention of one row (a decode step): bound by reading keys and values, each of them once, for
// all query heads that share them.
#include "attention.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Tokens whose scores are computed before their values are added.
constexpr int64_t kTileTokens = 64;
// Query heads whose sums are held in registers at one time.
constexpr int kHeadsAtOnce = 4;

// Memory of one task: [heads][head_dim] of queries, [heads][value_dim] of sums,
// [heads][kTileTokens] of scores.
struct RowMemory {
  float* query;
  float* sums;
  float* scores;
  RunningSoftmax* softmax;

  RowMemory(Scratch& scratch, int64_t heads, int64_t head_dim, int64_t value_dim) {
    const int64_t floats = heads * (head_dim + value_dim + kTileTokens);
    query = static_cast<float*>(
        scratch.reserve(floats * 4 + heads * static_cast<int64_t>(sizeof(RunningSoftmax))));
    sums = query + heads * head_dim;
    scores = sums + heads * value_dim;
    softmax = reinterpret_cast<RunningSoftmax*>(scores + heads * kTileTokens);
  }
};

// Scaled queries, filled up with zeros.
void load_query(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  const float* query =
      call.query + task.rows.begin * call.query_stride + task.heads.begin * head_dim;
  const int64_t heads = task.heads.end - task.heads.begin;
  for (int64_t head = 0; head < heads; ++head) {
    memory.softmax[head] = first_softmax(call, task.heads.begin + head);
    for (int64_t i = 0; i < padded; i += kLanes) {
      const Float16x x = load_some(query + head * head_dim + i, head_dim - i);
      store(memory.query + head * padded + i, x * broadcast(call.scale));
    }
  }
  const int64_t num_sums = heads * padded_value_dim(call);
  for (int64_t i = 0; i < num_sums; i += kLanes) store(memory.sums + i, zeros());
}

template <class Element, int Heads>
void score_token(const Element* key, int64_t head_dim, const float* query, int64_t padded,
                 float* scores) {
  Float16x products[Heads];
  for (int head = 0; head < Heads; ++head) products[head] = zeros();
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    const Float16x x = load_some(key + i, head_dim - i);
    for (int head = 0; head < Heads; ++head) {
      products[head] = fma(load(query + head * padded + i), x, products[head]);
    }
  }
  for (int head = 0; head < Heads; ++head) scores[head * kTileTokens] = sum(products[head]);
}

// sums[head] = sums[head] * factors[head] + sum over tokens of weight * value
template <class Element, int Heads>
void add_values(const Element* const* values, int64_t tokens, int64_t value_dim,
                const float* weights, const float* factors, float* sums, int64_t padded) {
  for (int64_t i = 0; i < value_dim; i += kLanes) {
    Float16x totals[Heads];
    for (int head = 0; head < Heads; ++head) {
      totals[head] = load(sums + head * padded + i) * broadcast(factors[head]);
    }
    for (int64_t token = 0; token < tokens; ++token) {
      const Float16x value = load_some(values[token] + i, value_dim - i);
      for (int head = 0; head < Heads; ++head) {
        totals[head] = fma(broadcast(weights[head * kTileTokens + token]), value, totals[head]);
      }
    }
    for (int head = 0; head < Heads; ++head) store(sums + head * padded + i, totals[head]);
  }
}

// Keys and values of consecutive positions.
template <class Element>
struct TileContext {
  int64_t first_position, tokens;
  const Element* keys[kTileTokens];
  const Element* values[kTileTokens];

  TileContext(const AttentionCall& call, const AttentionTask& task, Range positions)
      : first_position(positions.begin), tokens(positions.end - positions.begin) {
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t index = cache_index(call, task, first_position + token);
      keys[token] = key_at<Element>(call, index);
      values[token] = value_at<Element>(call, index);
    }
  }
};

// A tile of the context for `Heads` query heads from `first_head` of the task on.
template <class Element, int Heads>
void attend_tile(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory,
                 const TileContext<Element>& context, int64_t first_head) {
  const int64_t head_dim = call.cache.head_dim, padded = padded_head_dim(call);
  const float* query = memory.query + first_head * padded;
  float* scores = memory.scores + first_head * kTileTokens;
  const int64_t tokens = context.tokens;
  for (int64_t token = 0; token < tokens; ++token) {
    score_token<Element, Heads>(context.keys[token], head_dim, query, padded, scores + token);
  }
  float factors[Heads];
  for (int head = 0; head < Heads; ++head) {
    float* row = scores + head * kTileTokens;
    adjust_scores(call, task.heads.begin + first_head + head,
                  context.first_position - task.first_position, row, ceil_lanes(tokens));
    factors[head] =
        memory.softmax[first_head + head].update(row, ceil_lanes(tokens), {0, tokens});
  }
  const int64_t padded_value = padded_value_dim(call);
  add_values<Element, Heads>(context.values, tokens, call.cache.value_dim, scores, factors,
                             memory.sums + first_head * padded_value, padded_value);
}

// The query heads of the task from `first_head` on, fewer than kHeadsAtOnce.
template <class Element>
void attend_rest(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory,
                 const TileContext<Element>& context, int64_t first_head) {
  switch (task.heads.end - task.heads.begin - first_head) {
    case 3: return attend_tile<Element, 3>(call, task, memory, context, first_head);
    case 2: return attend_tile<Element, 2>(call, task, memory, context, first_head);
    case 1: return attend_tile<Element, 1>(call, task, memory, context, first_head);
  }
}

void store_row(const AttentionCall& call, const AttentionTask& task, const RowMemory& memory) {
  const int64_t value_dim = call.cache.value_dim, padded = padded_value_dim(call);
  float* out = call.out + (task.rows.begin * call.num_heads + task.heads.begin) * value_dim;
  for (int64_t head = 0; head < task.heads.end - task.heads.begin; ++head) {
    const Float16x share = broadcast(1.0f / memory.softmax[head].total);
    for (int64_t i = 0; i < value_dim; i += kLanes) {
      const Float16x x = load(memory.sums + head * padded + i) * share;
      store_some(out + head * value_dim + i, x, value_dim - i);
    }
  }
}

}  // namespace

template <class Element>
void attend_row(const AttentionCall& call, const AttentionTask& task) {
  static thread_local Scratch scratch;
  const int64_t heads = task.heads.end - task.heads.begin;
  const RowMemory memory(scratch, heads, padded_head_dim(call), padded_value_dim(call));
  load_query(call, task, memory);
  const int64_t end = task.first_position + 1;
  for (int64_t first = first_visible(call, task.first_position); first < end;
       first += kTileTokens) {
    const int64_t tile_end = first + kTileTokens < end ? first + kTileTokens : end;
    const TileContext<Element> context(call, task, {first, tile_end});
    int64_t head = 0;
    for (; head + kHeadsAtOnce <= heads; head += kHeadsAtOnce) {
      attend_tile<Element, kHeadsAtOnce>(call, task, memory, context, head);
    }
    attend_rest<Element>(call, task, memory, context, head);
  }
  store_row(call, task, memory);
}

template void attend_row<float>(const AttentionCall&, const AttentionTask&);
template void attend_row<BFloat16>(const AttentionCall&, const AttentionTask&);

}  // namespace cpu_operators::CPU_OPERATORS_ISA
