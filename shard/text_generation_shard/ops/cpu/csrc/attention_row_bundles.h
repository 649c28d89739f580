// Query heads that share a KV head, one, two or four of them, form a bundle: a key or value that was
// read serves all of them. A register of scores or weights holds four tokens in each quarter, of the
// bundle's heads in turn, [tokens / 4][heads][4], so that the heads' softmax runs side by side.
//
// For one instruction set alone, on top of AVX-512.
#pragma once

#include <type_traits>

#include "attention_row.h"
#include "round_pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int kQuarter = kLanes / 4;
// Numbers in a register of pairs, which is also what widths are filled up to.
inline constexpr int64_t kNumbers = 2 * kLanes;

// Heads whose queries stand side by side in a register, each for so many numbers of head_dim.
template <int Heads>
inline constexpr int kAbreast = Heads < 2 ? 1 : 2;
template <int Heads>
inline constexpr int64_t kStep = kNumbers / kAbreast<Heads>;
// Tokens whose scores are computed together: sixteen lanes of each of them become one.
template <int Heads>
inline constexpr int kTokens = kLanes / kAbreast<Heads>;

struct Bundle {
  int64_t first_head, count, kv_head;  // query heads; three are computed as four
  Pair* query;       // [head_dim / kStep][heads / kAbreast][16]
  float* sums;       // [heads][value_dim], 32 of them in the order of `pair_tokens`
  float* greatest;   // [16], as scores
  float* totals;     // [16], to be added up for each head
};

// Memory of one task.
struct RowPairMemory {
  int64_t head_dim, value_dim;  // filled up
  float* scores;                // of a bundle and tile
  BFloat16* weights;
  float* bundles;

  RowPairMemory(Scratch& scratch, const AttentionCall& call, const AttentionTask& task)
      : head_dim(ceil_to(call.cache.head_dim)), value_dim(ceil_to(call.cache.value_dim)) {
    constexpr int64_t tile = kHeadsAtOnce * kTileTokens;
    const int64_t most_bundles = task.heads.end - task.heads.begin;
    scores = static_cast<float*>(scratch.reserve((tile * 3 / 2 + most_bundles * floats()) * 4));
    weights = reinterpret_cast<BFloat16*>(scores + tile);
    bundles = scores + tile * 3 / 2;
  }

  static int64_t ceil_to(int64_t size) { return (size + kNumbers - 1) / kNumbers * kNumbers; }

  int64_t floats() const { return kHeadsAtOnce * (head_dim / 2 + value_dim) + 2 * kLanes; }

  Bundle bundle(int64_t index, Range heads, int64_t kv_head) const {
    float* query = bundles + index * floats();
    float* sums = query + kHeadsAtOnce * head_dim / 2;
    float* greatest = sums + kHeadsAtOnce * value_dim;
    return {heads.begin, heads.end - heads.begin,       kv_head, reinterpret_cast<Pair*>(query),
            sums,        greatest, greatest + kLanes};
  }
};

// Call `body(bundle, heads)`, heads known to the compiler, for the bundles of a task.
template <class Body>
void for_bundles(const AttentionCall& call, const AttentionTask& task, const RowPairMemory& memory,
                 const Body& body) {
  const int64_t group = group_size(call);
  int64_t index = 0;
  for (int64_t head = task.heads.begin, stop; head < task.heads.end; head = stop) {
    const int64_t kv_head = kv_head_of(call, head);
    stop = (kv_head + 1) * group < task.heads.end ? (kv_head + 1) * group : task.heads.end;
    if (stop > head + kHeadsAtOnce) stop = head + kHeadsAtOnce;
    const Bundle bundle = memory.bundle(index++, {head, stop}, kv_head);
    if (bundle.count > 2) {
      body(bundle, std::integral_constant<int, 4>{});
    } else if (bundle.count == 2) {
      body(bundle, std::integral_constant<int, 2>{});
    } else {
      body(bundle, std::integral_constant<int, 1>{});
    }
  }
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
