// What tests ask of the tile registers' own sources: single products, uses that a processor refuses
// and the assembler does not, and how features are read.
#include <thread>

#include "processor.h"
#include "tile_registers.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Registers 0 to 2 as C += A B has them, with so many rows.
RegisterShapes shapes_of(uint8_t c, uint8_t a, uint8_t b) {
  RegisterShapes shapes;
  const uint8_t rows[] = {c, a, b};
  for (int tile = 0; tile < 3; ++tile) {
    shapes.rows[tile] = rows[tile];
    shapes.row_bytes[tile] = kRegisterBytes;
  }
  return shapes;
}

template <class Kind>
void multiply(void* c, const void* a, const void* b, int rows) {
  tiles::configure(shapes_of(static_cast<uint8_t>(rows), static_cast<uint8_t>(rows), 16));
  tiles::load<0>(c, kRegisterBytes);
  tiles::load<1>(a, kRegisterBytes);
  tiles::load<2>(b, kRegisterBytes);
  Kind::template multiply<0, 1, 2>();
  tiles::store<0>(c, kRegisterBytes);
  tiles::release();
}

}  // namespace

extern "C" {

// c: [rows][16], 32 bits each; a: [rows][64 bytes]; b: [16][64 bytes].
void multiply_bytes(void* c, const void* a, const void* b, int rows) {
  multiply<tiles::Bytes>(c, a, b, rows);
}
void multiply_pairs(void* c, const void* a, const void* b, int rows) {
  multiply<tiles::Pairs>(c, a, b, rows);
}

void configure_nothing() { tiles::zero<0>(); }
void configure_another_thread() {
  tiles::configure(shapes_of(16, 16, 16));
  std::thread([] { tiles::zero<0>(); }).join();
  tiles::release();
}
void use_after_release() {
  tiles::configure(shapes_of(16, 16, 16));
  tiles::release();
  tiles::zero<0>();
}
void use_a_tile_without_shape() {
  tiles::configure(shapes_of(16, 16, 16));
  tiles::zero<3>();
  tiles::release();
}
void configure_17_rows() { tiles::configure(shapes_of(17, 16, 16)); }
void configure_65_bytes() {
  RegisterShapes shapes = shapes_of(16, 16, 16);
  shapes.row_bytes[1] = 65;
  tiles::configure(shapes);
}
void configure_a_ninth_tile() {
  RegisterShapes shapes = shapes_of(16, 16, 16);
  shapes.rows[8] = 1;
  tiles::configure(shapes);
}
void configure_palette_2() {
  RegisterShapes shapes = shapes_of(16, 16, 16);
  shapes.palette = 2;
  tiles::configure(shapes);
}
void multiply_more_rows_than_sums() {
  tiles::configure(shapes_of(8, 16, 16));
  tiles::Bytes::multiply<0, 1, 2>();
  tiles::release();
}
void multiply_more_columns_than_rows() {
  tiles::configure(shapes_of(16, 16, 8));
  tiles::Bytes::multiply<0, 1, 2>();
  tiles::release();
}
bool processor_offers_tiles(uint32_t features, uint64_t kept) {
  return offers_tiles(features, kept);
}

}  // extern "C"

}  // namespace cpu_operators::CPU_OPERATORS_ISA
