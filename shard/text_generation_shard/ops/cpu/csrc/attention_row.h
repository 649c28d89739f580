// What attention of single rows walks over: tiles of a context, and what a task keeps meanwhile.
#pragma once

#include "attention.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Tokens whose scores are computed before their values are added.
inline constexpr int64_t kTileTokens = 64;
// Query heads of one KV head that are computed at one time.
inline constexpr int kHeadsAtOnce = 4;
inline constexpr int kCacheLine = 64;

// Memory of one task: [heads][head_dim] of queries, [heads][value_dim] of sums, and scores of the
// heads that are computed at one time. Where keys are int8, queries are words and their scales.
struct RowMemory {
  float* query;
  float* sums;
  float* scores;        // [kHeadsAtOnce][kTileTokens]
  float* query_scales;  // [heads]
  RunningSoftmax* softmax;
  int16_t* query_words;  // [heads][padded_words(head_dim)]

  RowMemory(Scratch& scratch, int64_t heads, int64_t head_dim, int64_t value_dim) {
    const int64_t floats = heads * (head_dim + value_dim + 1) + kHeadsAtOnce * kTileTokens;
    const int64_t words = heads * padded_words(head_dim);
    query = static_cast<float*>(scratch.reserve(
        floats * 4 + heads * static_cast<int64_t>(sizeof(RunningSoftmax)) + words * 2));
    sums = query + heads * head_dim;
    scores = sums + heads * value_dim;
    query_scales = scores + kHeadsAtOnce * kTileTokens;
    softmax = reinterpret_cast<RunningSoftmax*>(query_scales + heads);
    query_words = reinterpret_cast<int16_t*>(softmax + heads);
  }

  // Filled up to what `load_words` reads.
  static int64_t padded_words(int64_t head_dim) {
    return (head_dim + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
  }
};

// The positions that a row sees, in tiles of almost one size: while it computes the last one, a row
// asks for the first one of another row.
struct Context {
  Range positions;
  int64_t tiles, tile_tokens;

  Context(const AttentionCall& call, const AttentionTask& task)
      : positions{first_visible(call, task.first_position), task.first_position + 1} {
    const int64_t tokens = positions.end - positions.begin;
    const int64_t fewest = (tokens + kTileTokens - 1) / kTileTokens;
    tile_tokens = ceil_lanes((tokens + fewest - 1) / fewest);
    tiles = (tokens + tile_tokens - 1) / tile_tokens;
  }

  Range tile(int64_t index) const {
    const int64_t begin = positions.begin + index * tile_tokens, end = begin + tile_tokens;
    return {begin, end < positions.end ? end : positions.end};
  }
};

// Keys or values of one KV head in a tile.
template <class Element>
struct TileRows {
  const Element* first;    // of the cache's first place
  const int64_t* offsets;  // of each token

  const Element* at(int64_t token) const { return first + offsets[token]; }
  TileRows from(int64_t token) const { return {first, offsets + token}; }
};

// Consecutive positions, and where they lie in the cache. Behind them the last one again, so that a
// few can be read at a time; in an empty tile: the first place of all.
struct TokenTile {
  static constexpr int64_t kRows = kTileTokens + kLanes;

  int64_t first_position, tokens;
  int64_t places[kRows];
  int64_t keys[kRows], values[kRows];  // offsets in numbers

  void fill(const AttentionCall& call, int64_t request, Range positions) {
    first_position = positions.begin;
    tokens = positions.end - positions.begin;
    Places all(call, request, positions.begin);
    for (int64_t token = 0; token < tokens; ++token) places[token] = all.next();
    const int64_t last = tokens > 0 ? places[tokens - 1] : 0;
    for (int64_t token = tokens; token < kRows; ++token) places[token] = last;
    const int64_t key_stride = call.cache.num_kv_heads * call.cache.head_dim;
    const int64_t value_stride = call.cache.num_kv_heads * call.cache.value_stride;
    for (int64_t token = 0; token < kRows; ++token) {
      keys[token] = places[token] * key_stride;
      values[token] = places[token] * value_stride;
    }
  }

  template <class Element>
  TileRows<Element> keys_of(const AttentionCall& call, int64_t kv_head) const {
    return {key_at<Element>(call, 0, kv_head), keys};
  }
  template <class Element>
  TileRows<Element> values_of(const AttentionCall& call, int64_t kv_head) const {
    return {value_at<Element>(call, 0, kv_head), values};
  }
};

// Call `body(tile, next)` for the tiles of a task's context; `next`: the one to ask for meanwhile,
// after the last one the first of the task that follows, or an empty one.
template <class Body>
void for_tiles(const AttentionCall& call, const AttentionTask& task, const AttentionTask* following,
               const Body& body) {
  const Context context(call, task);
  TokenTile tiles[2];
  tiles[0].fill(call, task.request, context.tile(0));
  for (int64_t index = 0; index < context.tiles; ++index) {
    const TokenTile& tile = tiles[index % 2];
    TokenTile& next = tiles[(index + 1) % 2];
    if (index + 1 < context.tiles) {
      next.fill(call, task.request, context.tile(index + 1));
    } else if (following != nullptr) {
      next.fill(call, following->request, Context(call, *following).tile(0));
    } else {
      next.fill(call, task.request, {tile.first_position, tile.first_position});
    }
    body(tile, next);
  }
}

// What the numbers of the keys and values of a tile are multiplied by, where there is something.
template <class Element>
struct TileScales {
  TileScales(const AttentionCall&, const TokenTile&, int64_t) {}
};

template <>
struct TileScales<int8_t> {
  float keys[kTileTokens], values[kTileTokens];  // 0 behind the tokens

  TileScales(const AttentionCall& call, const TokenTile& tile, int64_t kv_head) {
    const int64_t block_size = call.cache.block_size;
    for (int64_t token = 0, some; token < tile.tokens; token += some) {
      const int64_t place = tile.places[token], left = block_size - place % block_size;
      some = left < tile.tokens - token ? left : tile.tokens - token;
      const int64_t index = scale_index(call.cache, place, kv_head);
      widen(call.cache.key_scales + index, some, keys + token);
      widen(call.cache.value_scales + index, some, values + token);
    }
    for (int64_t i = tile.tokens; i < kTileTokens; ++i) keys[i] = values[i] = 0;
  }

 private:
  static void widen(const BFloat16* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += kLanes) {
      store_some(to + i, load_some(from + i, count - i), count - i);
    }
  }
};

template <class Element>
struct TileOfHead {
  TileRows<Element> keys, values;
  TileRows<Element> next_keys, next_values;  // those of the tile after it
  TileScales<Element> scales;

  TileOfHead(const AttentionCall& call, const TokenTile& tile, const TokenTile& next,
             int64_t kv_head)
      : keys(tile.keys_of<Element>(call, kv_head)),
        values(tile.values_of<Element>(call, kv_head)),
        next_keys(next.keys_of<Element>(call, kv_head)),
        next_values(next.values_of<Element>(call, kv_head)),
        scales(call, tile, kv_head) {}
};

// Ask for a token's key or value, which is read in a while.
template <class Element>
[[gnu::always_inline]] inline void prefetch(const Element* p, int64_t count) {
  const auto* bytes = reinterpret_cast<const char*>(p);
  const int64_t size = count * static_cast<int64_t>(sizeof(Element));
  for (int64_t i = 0; i < size; i += kCacheLine) __builtin_prefetch(bytes + i, 0, 2);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
