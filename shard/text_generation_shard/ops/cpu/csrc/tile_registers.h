// The tile registers of a processor with AMX: eight of up to 16 rows of 64 bytes each, and the
// products of what they hold (Intel 64 and IA-32 Architectures Software Developer's Manual, volume
// 2, from LDTILECFG to TILEZERO).
//
// A product is C += A B: A has the rows of C, B its columns, and a step of 64 bytes of packed weights
// (layout.h) is one row of B. All of it is the state of a thread, between `configure` and `release`.
#pragma once

#include <cstdint>
#include <utility>

namespace cpu_operators::CPU_OPERATORS_ISA {

inline constexpr int kRegisterRows = 16, kRegisterBytes = 64;

// What `ldtilecfg` reads.
struct alignas(64) RegisterShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(RegisterShapes) == 64);

// The instructions. The compiler knows nothing of these registers: `volatile` keeps the order.
namespace tiles {

inline void configure(const RegisterShapes& shapes) {
  asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
}
inline void release() { asm volatile("tilerelease" ::: "memory"); }

template <int T>
void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
// Rows are `stride` bytes apart.
template <int T>
void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

// Signed bytes of A times unsigned ones of B, to 32 bits.
struct Bytes {
  template <int C, int A, int B>
  static void multiply() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
// Pairs of bfloat16, to float32.
struct Pairs {
  template <int C, int A, int B>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

}  // namespace tiles

// Call `body.template operator()<I>()` for every I below Count.
template <int Count, class Body>
[[gnu::always_inline]] inline void for_each_index(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (body.template operator()<I>(), ...);
  }(std::make_integer_sequence<int, Count>());
}

// Where registers are read: their rows are `stride` bytes apart, they themselves `apart`.
struct Operand {
  const uint8_t* first;
  int64_t apart, stride;

  const uint8_t* at(int index) const { return first + index * apart; }
};

// Sums in Rows x Panels registers, and the registers that are multiplied. A sum of the block is 32
// bits; in memory the sums are [16 * Rows][Panels][16].
template <int Rows, int Panels>
struct RegisterBlock {
  static constexpr int kMaxRights = 8 - Rows * Panels - Rows;  // registers that are left
  static_assert(kMaxRights > 0);
  static constexpr int sum(int row, int panel) { return row * Panels + panel; }
  static constexpr int left(int row) { return Rows * Panels + row; }
  static constexpr int right(int panel) { return Rows * Panels + Rows + panel % kMaxRights; }
  // Of sums in memory.
  static constexpr int64_t kStride = Panels * kRegisterBytes;
  static constexpr int64_t place(int row, int panel) {
    return row * kRegisterRows * kStride + panel * kRegisterBytes;
  }

  // For so many rows, of which all but the last registers are full.
  static void configure(int64_t rows) {
    RegisterShapes shapes;
    const auto shape = [&](int tile, int64_t height) {
      shapes.rows[tile] = static_cast<uint8_t>(height);
      shapes.row_bytes[tile] = kRegisterBytes;
    };
    for (int row = 0; row < Rows; ++row) {
      const int64_t rest = rows - row * kRegisterRows;
      const int64_t height = rest < kRegisterRows ? rest : kRegisterRows;
      shape(left(row), height);
      for (int panel = 0; panel < Panels; ++panel) shape(sum(row, panel), height);
    }
    for (int panel = 0; panel < Panels; ++panel) shape(right(panel), kRegisterRows);
    tiles::configure(shapes);
  }

  template <class Body>
  [[gnu::always_inline]] static void for_each_sum(const Body& body) {
    for_each_index<Rows>([&]<int Row>() {
      for_each_index<Panels>([&]<int Panel>() { body.template operator()<Row, Panel>(); });
    });
  }
  static void zero() {
    for_each_sum([]<int Row, int Panel>() { tiles::zero<sum(Row, Panel)>(); });
  }
  static void load(const void* sums) {
    for_each_sum([&]<int Row, int Panel>() {
      tiles::load<sum(Row, Panel)>(static_cast<const uint8_t*>(sums) + place(Row, Panel), kStride);
    });
  }
  static void store(void* sums) {
    for_each_sum([&]<int Row, int Panel>() {
      tiles::store<sum(Row, Panel)>(static_cast<uint8_t*>(sums) + place(Row, Panel), kStride);
    });
  }

  // Add the products of what 16 steps of weights hold; `Kind`: Bytes or Pairs.
  template <class Kind>
  [[gnu::always_inline]] static void add_products(const Operand& lefts, const Operand& rights) {
    for_each_index<Rows>(
        [&]<int Row>() { tiles::load<left(Row)>(lefts.at(Row), lefts.stride); });
    for_each_index<Panels>([&]<int Panel>() {
      tiles::load<right(Panel)>(rights.at(Panel), rights.stride);
      for_each_index<Rows>([&]<int Row>() {
        Kind::template multiply<sum(Row, Panel), left(Row), right(Panel)>();
      });
    });
  }
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
