// Attention of one row over keys and values in 8 bits: products of words, whose pairs are summed in 32
// bits. Queries and weights are rounded to 16 bits for it, with a scale for each head and, of weights,
// tile: 1/256 of what keys and values lose.
#pragma once

#include "attention_row.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// Largest magnitude of a word of which so many products with 127 fit a sum.
inline float largest_word(int64_t count) {
  const int64_t fitting = 0x7fffffff / (127 * count);
  return static_cast<float>(fitting < 0x7fff ? fitting : 0x7fff);
}

// x [count], count a multiple of sixteen, as words times what is returned.
inline float round_to_words(const float* x, int64_t count, float limit, int16_t* words) {
  const float magnitude = largest_magnitude(x, count);
  const Float16x factor = broadcast(magnitude > 0 ? limit / magnitude : 0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    store_words(words + i, round_to_even(load(x + i) * factor));
  }
  return magnitude / limit;
}

inline void round_query(const AttentionCall& call, const RowMemory& memory, int64_t head) {
  const int64_t padded = padded_head_dim(call), stride = RowMemory::padded_words(padded);
  int16_t* words = memory.query_words + head * stride;
  memory.query_scales[head] = round_to_words(memory.query + head * padded, padded,
                                             largest_word(call.cache.head_dim), words);
  for (int64_t i = padded; i < stride; ++i) words[i] = 0;
}

// The first `count` of some bytes, and zeros.
struct FirstBytes {
  int8_t at[2 * kLanes] = {};

  FirstBytes(const int8_t* p, int64_t count) {
    __builtin_memcpy(at, p, static_cast<size_t>(count));
  }
};

// products[head * Tokens + token] = query x key, in lanes that are to be added up.
template <int Heads, int Tokens>
[[gnu::always_inline]] inline void multiply_keys(TileRows<int8_t> keys, int64_t head_dim,
                                                 const int16_t* query, int64_t stride,
                                                 PairSums* products) {
  PairSums sums[Heads * Tokens];
  for (PairSums& sum : sums) sum = no_pairs();
  const auto add = [&](const WordPairs(&key)[Tokens], int64_t i) {
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const WordPairs x = load_words(query + head * stride + i);
#pragma GCC unroll 16
      for (int token = 0; token < Tokens; ++token) {
        sums[head * Tokens + token] = add_pairs(sums[head * Tokens + token], x, key[token]);
      }
    }
  };
  constexpr int64_t step = 2 * kLanes;
  int64_t i = 0;
  for (; i + step <= head_dim; i += step) {
    WordPairs key[Tokens];
    for (int token = 0; token < Tokens; ++token) key[token] = load_words(keys.at(token) + i);
    add(key, i);
  }
  if (i < head_dim) {
    WordPairs key[Tokens];
    for (int token = 0; token < Tokens; ++token) {
      key[token] = load_words(FirstBytes(keys.at(token) + i, head_dim - i).at);
    }
    add(key, i);
  }
  for (int index = 0; index < Heads * Tokens; ++index) products[index] = sums[index];
}

// Of the heads that are computed at one time: weights times the values' scales, as words.
struct WordWeights {
  int16_t words[kHeadsAtOnce][kTileTokens];
  float scales[kHeadsAtOnce];

  // weights: [count], count a multiple of sixteen, of one head; changed.
  void round(int head, float* weights, const float* value_scales, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) {
      store(weights + i, load(weights + i) * load(value_scales + i));
    }
    scales[head] = round_to_words(weights, count, largest_word(kTileTokens), words[head]);
  }
};

// Columns of all heads' sums, `count` of which there are, or as many as chunks have:
// sums[head] = sums[head] * factors[head] + sum over tokens of weight * value.
template <int Heads, int Chunks>
[[gnu::always_inline]] inline void add_columns(TileRows<int8_t> values,
                                               TileRows<int8_t> next, int64_t tokens,
                                               int64_t i, int64_t count,
                                               const WordWeights& weights, const float* factors,
                                               float* sums, int64_t padded) {
  constexpr int parts = kPairColumns / kLanes;
  PairSums totals[Heads][Chunks][parts] = {};
  for (int64_t token = 0; token < tokens; token += 2) {
    prefetch(next.at(token) + i, Chunks * kPairColumns);
    prefetch(next.at(token + 1) + i, Chunks * kPairColumns);
    ColumnPairs pairs[Chunks];
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      const int64_t column = i + chunk * kPairColumns;
      const int8_t *first = values.at(token) + column, *second = values.at(token + 1) + column;
      pairs[chunk] = count >= kPairColumns
                         ? pair_columns(first, second)
                         : pair_columns(FirstBytes(first, count).at, FirstBytes(second, count).at);
    }
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const WordPairs weight = broadcast_pair(weights.words[head] + token);
#pragma GCC unroll 2
      for (int chunk = 0; chunk < Chunks; ++chunk) {
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part) {
          PairSums& total = totals[head][chunk][part];
          total = add_pairs(total, pairs[chunk].part[part], weight);
        }
      }
    }
  }
  for (int head = 0; head < Heads; ++head) {
    for (int chunk = 0; chunk < Chunks; ++chunk) {
      Float16x columns[parts];
      in_order(totals[head][chunk], columns);
      for (int part = 0; part < parts && part * kLanes < count; ++part) {
        float* sum = sums + head * padded + i + chunk * kPairColumns + part * kLanes;
        store(sum, fma(columns[part], broadcast(weights.scales[head]),
                       load(sum) * broadcast(factors[head])));
      }
    }
  }
}

template <int Heads>
void add_values(TileRows<int8_t> values, TileRows<int8_t> next, int64_t tokens,
                int64_t value_dim, const WordWeights& weights, const float* factors, float* sums,
                int64_t padded) {
  constexpr int64_t step = kPairChunks * kPairColumns;
  int64_t i = 0;
  for (; i + step <= value_dim; i += step) {
    add_columns<Heads, kPairChunks>(values, next, tokens, i, step, weights, factors, sums, padded);
  }
  for (; i < value_dim; i += kPairColumns) {
    add_columns<Heads, 1>(values, next, tokens, i, value_dim - i, weights, factors, sums, padded);
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
