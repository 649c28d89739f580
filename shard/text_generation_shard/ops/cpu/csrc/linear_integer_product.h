// Products of int8 or int4 weights with activations quantised to int8: which tiles are computed
// when, for every way to multiply one.
//
// A way is a type that has
//
//   kTileRows     rows of a full tile
//   kReadsInt4    whether a tile takes int4 weights as they are
//   multiply<Stored, Bits>(tile, rows)
#pragma once

#include "linear_integer_tile.h"

namespace cpu_operators::CPU_OPERATORS_ISA::integer {

// How far ahead weights are fetched where there is a single tile of rows.
inline constexpr int64_t kPrefetchBytes = 12 << 10;
// Up to so many rows the processor's own fetching of the one stream keeps up, and is faster alone.
template <int Bits>
inline constexpr int64_t kMaxStreamedRows = Bits == 8 ? 4 : 2;
// Outputs that each tile of rows is multiplied with in turn. It stays in the first cache meanwhile,
// their weights, of at most so many bytes, in the second, and rows of results are written in pieces
// of some hundred bytes.
inline constexpr int kBlockOutputs = 128;
inline constexpr int64_t kBlockBytes = 384 << 10;

// A call's product: weights stored with `Stored` bits, multiplied as if it were `Bits`.
template <class Way, int Stored, int Bits>
class Product {
 public:
  Product(const LinearCall& call, const Activations<Bits>& activations)
      : call_(call), activations_(activations) {
    wide_.format = kFormat<Bits>;
  }

  // Tiles of outputs that are multiplied with each tile of rows in turn.
  int64_t block_tiles() const {
    return std::clamp<int64_t>(kBlockBytes / tile_bytes(wide_), 1, kBlockOutputs / kTileOutputs);
  }

  // Some tiles of outputs times all rows.
  void multiply(Range tiles) const {
    const int64_t block = block_tiles();
    for (int64_t first = tiles.begin; first < tiles.end; first += block) {
      multiply_block({first, std::min(first + block, tiles.end)});
    }
  }

 private:
  // int4 becomes int8 for a single tile of rows in registers, if these can, or else in memory.
  bool widens() const {
    return Stored != Bits && (!Way::kReadsInt4 || activations_.tiles().count > 1);
  }
  void multiply_block(Range tiles) const {
    if constexpr (Stored != Bits) {
      if (widens()) return multiply_block<Bits>(tiles, widened(tiles), wide_);
    }
    if constexpr (Stored == Bits || Way::kReadsInt4) {
      multiply_block<Stored>(tiles, tile_at(call_.weights, tiles.begin), call_.weights);
    }
  }

  // The same with weights that are read as they lie there.
  template <int Read>
  void multiply_block(Range tiles, uint8_t* weights, const Weights& read) const {
    const int64_t count = tiles.end - tiles.begin, row_tiles = activations_.tiles().count;
    for (int64_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
      for (int64_t place = 0; place < count; ++place) {
        multiply_tile<Read>(weights + place * tile_bytes(read), tiles.begin + place, row_tile,
                            count);
      }
    }
  }

  // int4 as int8 has it, once for all rows.
  uint8_t* widened(Range tiles) const
    requires(Stored != Bits)
  {
    static thread_local Scratch scratch;
    const int64_t bytes = tile_bytes(wide_), parts = num_parts(wide_);
    auto* out = static_cast<uint8_t*>(scratch.reserve((tiles.end - tiles.begin) * bytes));
    for (int64_t index = tiles.begin; index < tiles.end; ++index) {
      widen_tile(tile_at(call_.weights, index), parts, out + (index - tiles.begin) * bytes);
    }
    return out;
  }

  // One tile of outputs times one of rows.
  template <int Read>
  void multiply_tile(uint8_t* weights, int64_t index, int64_t row_tile, int64_t block) const {
    const Range rows = activations_.tiles()[row_tile];
    const int64_t column = index * kTileOutputs, stride = call_.out_stride;
    const int64_t corner = rows.begin * stride + column;
    Tile<Bits> tile{};
    tile.weights = weights;
    tile.parts = num_parts(call_.weights);
    tile.x = activations_.tile(rows);
    tile.bias = call_.bias == nullptr ? nullptr : call_.bias + column;
    tile.addend = call_.addend == nullptr ? nullptr : call_.addend + corner;
    tile.out = call_.out + corner;
    tile.stride = stride;
    tile.columns = call_.weights.outputs - column;
    tile.ahead = ahead_of(index, row_tile, block);
    Way::template multiply<Read, Bits>(tile, rows.end - rows.begin);
  }

  // A single tile of rows asks for what comes soon; of several, or where weights are widened before,
  // each for its share of the next block's.
  Ahead ahead_of(int64_t index, int64_t row_tile, int64_t block) const {
    const uint8_t* weights = tile_at(call_.weights, index);
    const int64_t count = activations_.tiles().count;
    if (call_.rows <= kMaxStreamedRows<Bits>) return {weights, 0, 0, 0};
    if (count == 1 && !widens()) {
      return {weights + kPrefetchBytes, kPanels, kPanels * kStepBytes, head_bytes(kFormat<Stored>)};
    }
    const int64_t steps = num_parts(wide_) * kPartQuads / kStepQuads<Bits>;
    const int64_t bytes = tile_bytes(call_.weights), share = ceil_div(bytes, steps * count);
    return {weights + block * bytes + row_tile * steps * share, kPanels, share, 0};
  }

  const LinearCall& call_;
  const Activations<Bits>& activations_;
  Weights wide_ = call_.weights;  // what is multiplied; its panels are not used
};

template <class Way, int Stored, int Bits>
void multiply_all(const LinearCall& call) {
  static thread_local Scratch scratch;
  const Activations<Bits> activations(call, Way::kTileRows, scratch);
  const Product<Way, Stored, Bits> product(call, activations);
  // A single row takes the least time: larger pieces. Blocks of tiles, but enough pieces for all.
  const int64_t tiles = num_tiles(call.weights);
  const int64_t most = call.rows == 1 ? 64 / kTileOutputs : product.block_tiles();
  const int64_t grain = std::clamp<int64_t>(tiles / (8 * call.num_threads), 1, most);
  share_out(call.num_threads, tiles, grain, [&](Range some) { product.multiply(some); });
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA::integer
