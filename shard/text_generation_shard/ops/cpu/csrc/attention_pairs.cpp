// Attention of a chunk over keys and values in bfloat16, by dot products of bfloat16 pairs: queries
// and weights are rounded to bfloat16, as keys and values are; sums are float32.
//
// Sixteen rows, (token, query head) pairs of one KV head, fill the lanes and form a panel: their
// softmax runs side by side, and keys are read as the cache has them. For a tile of tokens
//
//   scores [tokens][rows] = keys [tokens][head_dim] x query [head_dim][rows]
//   sums [value_dim][rows] = sums * factor + values^T [value_dim][tokens] x weights [tokens][rows]
//
// Compiled for one instruction set alone, on top of AVX-512.
#include <cstring>
#include <type_traits>

#include "attention.h"
#include "pairs.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kTileTokens = 64;

constexpr int64_t ceil_to(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// Memory of one task of so many panels.
struct PairMemory {
  int64_t head_pairs, value_dim;  // filled up
  Pair* query;                    // [panels][head_pairs][16], scaled
  float* sums;                    // [panels][value_dim][16]
  float *greatest, *totals;       // [panels][16]
  int32_t *first, *end;           // [panels][16], positions that a row sees
  float* scores;                  // [kPanels][kTileTokens][16]
  Pair* weights;                  // [kPanels][kTileTokens / 2][16]
  Pair* keys;                     // [kTileTokens][head_pairs]
  Pair* values;                   // [kTileTokens / 2][value_dim]

  PairMemory(Scratch& scratch, const AttentionCall& call, int64_t panels)
      : head_pairs(padded_head_dim(call) / 2), value_dim(padded_value_dim(call)) {
    const int64_t rows = panels * kLanes;
    const int64_t words = rows * (head_pairs + value_dim + 4) +
                          kPanels * kTileTokens * kLanes * 3 / 2 +
                          kTileTokens * (head_pairs + value_dim / 2);
    auto* next = static_cast<Pair*>(scratch.reserve(words * static_cast<int64_t>(sizeof(Pair))));
    const auto take = [&](auto*& part, int64_t count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(next);
      next += count;
    };
    take(query, rows * head_pairs);
    take(sums, rows * value_dim);
    take(greatest, rows);
    take(totals, rows);
    take(first, rows);
    take(end, rows);
    take(scores, kPanels * kTileTokens * kLanes);
    take(weights, kPanels * kTileTokens / 2 * kLanes);
    take(keys, kTileTokens * head_pairs);
    take(values, kTileTokens / 2 * value_dim);
  }
};

// The rows of a task, panel by panel; rows of one token lie side by side, as its query heads do.
class TaskRows {
 public:
  explicit TaskRows(const AttentionTask& task)
      : task_(task), heads_(task.heads.end - task.heads.begin) {}

  int64_t count() const { return (task_.rows.end - task_.rows.begin) * heads_; }
  int64_t panels() const { return (count() + kLanes - 1) / kLanes; }
  int64_t row(int64_t index) const { return task_.rows.begin + index / heads_; }
  int64_t head(int64_t index) const { return task_.heads.begin + index % heads_; }
  int64_t position(int64_t index) const { return task_.first_position + index / heads_; }

 private:
  const AttentionTask& task_;
  int64_t heads_;
};

// Thirty-two scaled inputs of a query, in bfloat16.
__m512i load_pairs(const AttentionCall& call, const float* query, int64_t first) {
  const auto part = [&](int64_t begin) {
    const int64_t left = call.cache.head_dim - begin;
    return left > 0 ? (load_some(query + begin, left) * broadcast(call.scale)).v : zeros().v;
  };
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(part(first + kLanes), part(first)));
}

void load_panel(const AttentionCall& call, const TaskRows& rows, int64_t panel,
                const PairMemory& memory) {
  const int64_t begin = panel * kLanes, left = rows.count() - begin;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int64_t index = begin + lane;
    const bool is_real = lane < left;
    const RunningSoftmax softmax =
        is_real ? first_softmax(call, rows.head(index)) : RunningSoftmax{};
    memory.greatest[index] = softmax.greatest;
    memory.totals[index] = softmax.total;
    const int64_t position = is_real ? rows.position(index) : -1;
    memory.first[index] = is_real ? static_cast<int32_t>(first_visible(call, position)) : 0;
    memory.end[index] = static_cast<int32_t>(position + 1);
  }
  for (int64_t pair = 0; pair < memory.head_pairs; pair += kLanes) {
    __m512i pairs[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t index = begin + lane;
      pairs[lane] = _mm512_setzero_si512();
      if (lane >= left) continue;
      const float* query = call.query + rows.row(index) * call.query_stride +
                           rows.head(index) * call.cache.head_dim;
      pairs[lane] = load_pairs(call, query, 2 * pair);
    }
    transpose(pairs);
    for (int64_t i = 0; i < kLanes && pair + i < memory.head_pairs; ++i) {
      _mm512_storeu_si512(memory.query + (panel * memory.head_pairs + pair + i) * kLanes, pairs[i]);
    }
  }
  float* sums = memory.sums + panel * memory.value_dim * kLanes;
  for (int64_t i = 0; i < memory.value_dim; ++i) store(sums + i * kLanes, zeros());
}

// Rows of a task that are computed together: up to kPanels panels, and what they see of a tile.
struct Block {
  int64_t first_panel, panels;
  int64_t begin, tokens;  // of the tile; the tokens filled up
  bool is_whole;          // whether all rows see all of these tokens
};

// Keys and values of the positions [tokens.begin, tokens.end), zeros behind them.
void load_tile(const AttentionCall& call, const AttentionTask& task, Range tokens,
               const PairMemory& memory) {
  const int64_t head_dim = call.cache.head_dim, value_dim = call.cache.value_dim;
  const int64_t kv_head = kv_head_of(call, task.heads.begin);
  const int64_t count = tokens.end - tokens.begin;
  const BFloat16* values[kTileTokens] = {};
  Places places(call, task.request, tokens.begin);
  for (int64_t token = 0; token < ceil_to(count, kLefts); ++token) {
    Pair* key = memory.keys + token * memory.head_pairs;
    std::memset(key, 0, static_cast<size_t>(memory.head_pairs) * sizeof(Pair));
    if (token >= count) continue;
    const int64_t place = places.next();
    std::memcpy(key, key_at<BFloat16>(call, place, kv_head),
                static_cast<size_t>(head_dim) * sizeof(BFloat16));
    values[token] = value_at<BFloat16>(call, place, kv_head);
  }
  for (int64_t token = 0; token < ceil_to(count, kLefts); token += 2) {
    Pair* pairs = memory.values + token / 2 * memory.value_dim;
    for (int64_t i = 0; i < memory.value_dim; i += kLanes) {
      const auto part = [&](const BFloat16* value) {
        return value == nullptr ? zeros() : load_some(value + i, value_dim - i);
      };
      // Widened, a number's bits are the upper half.
      const __m512i low = _mm512_castps_si512(part(values[token]).v);
      const __m512i high = _mm512_castps_si512(part(values[token + 1]).v);
      _mm512_storeu_si512(pairs + i, _mm512_or_si512(high, _mm512_srli_epi32(low, 16)));
    }
  }
}

void compute_scores(const Block& block, const PairMemory& memory) {
  const int64_t query_stride = memory.head_pairs * kLanes;
  for (int64_t token = 0; token < block.tokens; token += kLefts) {
    multiply({.left = memory.keys + token * memory.head_pairs,
              .left_stride = memory.head_pairs,
              .left_step = 1,
              .right = memory.query + block.first_panel * query_stride,
              .right_stride = query_stride,
              .pairs = memory.head_pairs,
              .out = memory.scores + token * kLanes,
              .out_stride = kTileTokens * kLanes,
              .factors = nullptr},
             block.panels);
  }
}

void add_values(const Block& block, const float* factors, const PairMemory& memory) {
  const int64_t sums_stride = memory.value_dim * kLanes;
  for (int64_t i = 0; i < memory.value_dim; i += kLefts) {
    multiply({.left = memory.values + i,
              .left_stride = 1,
              .left_step = memory.value_dim,
              .right = memory.weights,
              .right_stride = kTileTokens / 2 * kLanes,
              .pairs = block.tokens / 2,
              .out = memory.sums + block.first_panel * sums_stride + i * kLanes,
              .out_stride = sums_stride,
              .factors = factors},
             block.panels);
  }
}

// Scores of panel `index` of a block to weights e^(score - greatest), as the running softmax needs
// them. Returns the factor for what was summed before.
Float16x weigh(const AttentionCall& call, const Block& block, int64_t index,
               const PairMemory& memory) {
  const int64_t row = (block.first_panel + index) * kLanes;
  const __m512i first = _mm512_loadu_si512(memory.first + row);
  const __m512i end = _mm512_loadu_si512(memory.end + row);
  const auto visible = [&](int64_t token) -> __mmask16 {
    if (block.is_whole) return 0xffff;
    const __m512i position = _mm512_set1_epi32(static_cast<int>(block.begin + token));
    return _mm512_cmple_epi32_mask(first, position) & _mm512_cmplt_epi32_mask(position, end);
  };
  float* scores = memory.scores + index * kTileTokens * kLanes;
  const Float16x before = load(memory.greatest + row);
  Float16x most = before;
  for (int64_t token = 0; token < block.tokens; ++token) {
    Float16x score = load(scores + token * kLanes);
    if (call.soft_cap > 0) {
      const Float16x cap = broadcast(call.soft_cap);
      score = cap * hyperbolic_tangent(score / cap);
      store(scores + token * kLanes, score);
    }
    most = {_mm512_mask_max_ps(most.v, visible(token), score.v, most.v)};
  }
  const Float16x factor = exponential(before - most);
  Float16x total = load(memory.totals + row) * factor;
  const auto weight_at = [&](int64_t token) -> Float16x {
    const Float16x weight = weight_of(load(scores + token * kLanes) - most);
    return {_mm512_maskz_mov_ps(visible(token), weight.v)};
  };
  Pair* weights = memory.weights + index * kTileTokens / 2 * kLanes;
  for (int64_t token = 0; token < block.tokens; token += 2) {
    const Float16x low = weight_at(token), high = weight_at(token + 1);
    total = total + (low + high);
    _mm512_storeu_si512(weights + token / 2 * kLanes, interleaved(low, high));
  }
  store(memory.greatest + row, most);
  store(memory.totals + row, total);
  return factor;
}

// What the rows of some panels see of a tile.
Block block_of(const AttentionCall& call, const TaskRows& rows, int64_t first_panel, Range tile) {
  const int64_t left = rows.panels() - first_panel, panels = left < kPanels ? left : kPanels;
  const int64_t first_row = first_panel * kLanes, end_row = (first_panel + panels) * kLanes;
  const int64_t last_row = (end_row < rows.count() ? end_row : rows.count()) - 1;
  const int64_t first = rows.position(first_row), last = rows.position(last_row);
  const int64_t end = last + 1 < tile.end ? last + 1 : tile.end;
  const int64_t tokens = first_visible(call, first) < end ? end - tile.begin : 0;
  const int64_t filled = ceil_to(tokens > 0 ? tokens : 0, kLefts);
  const bool is_whole = end_row <= rows.count() && tile.begin + filled <= first + 1 &&
                        first_visible(call, last) <= tile.begin;
  return {first_panel, panels, tile.begin, filled, is_whole};
}

void attend_tile(const AttentionCall& call, const AttentionTask& task, const TaskRows& rows,
                 Range tile, const PairMemory& memory) {
  load_tile(call, task, tile, memory);
  for (int64_t panel = 0; panel < rows.panels(); panel += kPanels) {
    const Block block = block_of(call, rows, panel, tile);
    if (block.tokens == 0) continue;
    compute_scores(block, memory);
    float factors[kPanels * kLanes];
    for (int64_t index = 0; index < block.panels; ++index) {
      store(factors + index * kLanes, weigh(call, block, index, memory));
    }
    add_values(block, factors, memory);
  }
}

void store_panel(const AttentionCall& call, const TaskRows& rows, int64_t panel,
                 const PairMemory& memory) {
  const int64_t begin = panel * kLanes, value_dim = call.cache.value_dim;
  const Float16x share = broadcast(1.0f) / load(memory.totals + begin);
  for (int64_t i = 0; i < value_dim; i += kLanes) {
    const float* sums = memory.sums + (panel * memory.value_dim + i) * kLanes;
    __m512i turned[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      turned[lane] = _mm512_castps_si512((load(sums + lane * kLanes) * share).v);
    }
    transpose(turned);
    for (int64_t index = begin; index < begin + kLanes && index < rows.count(); ++index) {
      float* out = call.out + (rows.row(index) * call.num_heads + rows.head(index)) * value_dim;
      store_some(out + i, {_mm512_castsi512_ps(turned[index - begin])}, value_dim - i);
    }
  }
}

}  // namespace

bool takes_pairs(const AttentionCall& call) {
  return call.alibi_slopes == nullptr && call.distance_bias == nullptr;
}

void attend_pairs(const AttentionCall& call, const AttentionTask& task) {
  static thread_local Scratch scratch;
  const TaskRows rows(task);
  const PairMemory memory(scratch, call, rows.panels());
  for (int64_t panel = 0; panel < rows.panels(); ++panel) load_panel(call, rows, panel, memory);
  const int64_t end = rows.position(rows.count() - 1) + 1;
  for (int64_t first = first_visible(call, task.first_position); first < end;
       first += kTileTokens) {
    const int64_t tile_end = first + kTileTokens;
    attend_tile(call, task, rows, {first, tile_end < end ? tile_end : end}, memory);
  }
  for (int64_t panel = 0; panel < rows.panels(); ++panel) store_panel(call, rows, panel, memory);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
