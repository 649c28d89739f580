// A processor with AMX for a machine without one: here its instructions are not defined, and who
// handles that signal can do what they would have done, with the very bytes that the compiler wrote.
//
// After Intel's Software Developer's Manual, volume 2 (the instructions, 2.10: their exceptions). What
// a processor would refuse is written down as a fault and skipped. The state is each thread's own.
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tile {
  uint8_t bytes[kRows][kRowBytes];

  template <class Element>
  Element at(int row, int column) const {
    Element element;
    std::memcpy(&element, bytes[row] + column * sizeof(Element), sizeof(Element));
    return element;
  }
  template <class Element>
  void set(int row, int column, Element element) {
    std::memcpy(bytes[row] + column * sizeof(Element), &element, sizeof(Element));
  }
};

struct State {
  bool is_configured;
  uint16_t row_bytes[kTiles];
  uint8_t rows[kTiles];
  Tile tiles[kTiles];
};
thread_local State state;

std::atomic<int> threads_configured{0};
std::atomic<int64_t> num_executed{0};
std::atomic<const char*> fault{nullptr};
struct sigaction before;

// For `if`: whether there is none.
bool refuse(bool is_wrong, const char* why) {
  if (!is_wrong) return false;
  const char* none = nullptr;
  fault.compare_exchange_strong(none, why);
  return true;
}

void release() {
  if (state.is_configured) --threads_configured;
  state = {};
}

// Of the 64 bytes: palette, start_row, 14 reserved, row_bytes [8], 16 reserved, rows [8], 8 reserved.
void configure(const uint8_t* shapes) {
  if (shapes[0] == 0) return release();
  if (refuse(shapes[0] != 1, "there is no such palette")) return;
  const auto is_zero = [&](int begin, int end) {
    return std::all_of(shapes + begin, shapes + end, [](uint8_t byte) { return byte == 0; });
  };
  const bool is_reserved_used = !is_zero(1, 16) || !is_zero(32, 48) || !is_zero(56, 64);
  if (refuse(is_reserved_used, "reserved bytes of a configuration are not zero")) return;
  State next{};
  std::memcpy(next.row_bytes, shapes + 16, sizeof(next.row_bytes));
  std::memcpy(next.rows, shapes + 48, sizeof(next.rows));
  for (int tile = 0; tile < kTiles; ++tile) {
    const int rows = next.rows[tile], row_bytes = next.row_bytes[tile];
    if (refuse(rows > kRows || row_bytes > kRowBytes, "a tile is too large")) return;
    if (refuse((rows == 0) != (row_bytes == 0), "a tile has rows or columns alone")) return;
  }
  release();
  state = next;
  state.is_configured = true;
  ++threads_configured;
}

bool is_usable(int tile) {
  if (refuse(!state.is_configured, "tiles are not configured")) return false;
  if (refuse(tile >= kTiles, "there is no such tile")) return false;
  if (refuse(state.rows[tile] == 0, "a tile has no shape")) return false;
  return !refuse(state.row_bytes[tile] % 4 != 0, "rows are not whole numbers of 32 bits");
}

void zero(int tile) {
  if (is_usable(tile)) state.tiles[tile] = {};
}

void load(int tile, const uint8_t* from, int64_t stride) {
  if (!is_usable(tile)) return;
  state.tiles[tile] = {};
  for (int row = 0; row < state.rows[tile]; ++row) {
    std::memcpy(state.tiles[tile].bytes[row], from + row * stride, state.row_bytes[tile]);
  }
}

void store(int tile, uint8_t* to, int64_t stride) {
  if (!is_usable(tile)) return;
  for (int row = 0; row < state.rows[tile]; ++row) {
    std::memcpy(to + row * stride, state.tiles[tile].bytes[row], state.row_bytes[tile]);
  }
}

// Four products of signed bytes of a with unsigned ones of b.
int32_t dot_bytes(uint32_t a, uint32_t b) {
  int32_t sum = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    sum += static_cast<int8_t>(a >> shift) * static_cast<uint8_t>(b >> shift);
  }
  return sum;
}

float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
float half_of_pair(uint32_t pair, int half) {
  return flushed(std::bit_cast<float>(half == 0 ? pair << 16 : pair & 0xffff0000));
}

void add_bytes(int c, int a, int b, int row, int column) {
  auto sum = state.tiles[c].at<uint32_t>(row, column);
  for (int step = 0; step < state.rows[b]; ++step) {
    sum += static_cast<uint32_t>(dot_bytes(state.tiles[a].at<uint32_t>(row, step),
                                           state.tiles[b].at<uint32_t>(step, column)));
  }
  state.tiles[c].set(row, column, sum);
}

// First and second ones of pairs are added apart, then to each other, and then to the sum.
void add_pairs(int c, int a, int b, int row, int column) {
  float halves[2] = {0.0f, 0.0f};
  for (int step = 0; step < state.rows[b]; ++step) {
    const auto left = state.tiles[a].at<uint32_t>(row, step);
    const auto right = state.tiles[b].at<uint32_t>(step, column);
    for (int half = 0; half < 2; ++half) {
      const float factor = half_of_pair(left, half), other = half_of_pair(right, half);
      halves[half] = flushed(std::fma(factor, other, halves[half]));
    }
  }
  const float sum = flushed(state.tiles[c].at<float>(row, column));
  state.tiles[c].set(row, column, flushed(sum + flushed(halves[0] + halves[1])));
}

template <class Add>
void multiply(int c, int a, int b, const Add& add) {
  if (refuse(c == a || c == b || a == b, "tiles of a product are the same")) return;
  if (!is_usable(c) || !is_usable(a) || !is_usable(b)) return;
  const bool is_product = state.rows[c] == state.rows[a] &&
                          state.row_bytes[c] == state.row_bytes[b] &&
                          state.row_bytes[a] == 4 * state.rows[b];
  if (refuse(!is_product, "shapes do not make a product")) return;
  for (int row = 0; row < state.rows[c]; ++row) {
    for (int column = 0; column < state.row_bytes[c] / 4; ++column) add(c, a, b, row, column);
  }
}

// An instruction with a prefix of three bytes, VEX.
class Instruction {
 public:
  Instruction(const uint8_t* code, const greg_t* registers) : registers_(registers) {
    is_known = code[0] == 0xc4 && (code[1] & 0x1f) == 2 && (code[2] & 0x84) == 0;
    if (!is_known) return;
    extends_reg_ = !(code[1] & 0x80);
    extends_index_ = !(code[1] & 0x40);
    extends_base_ = !(code[1] & 0x20);
    second = ~(code[2] >> 3) & 0x0f;
    kind = (code[2] & 3) << 8 | code[3];
    reg = (code[4] >> 3 & 7) | extends_reg_ << 3;
    rm = (code[4] & 7) | extends_base_ << 3;
    is_memory = code[4] >> 6 != 3;
    end = code + 5;
    if (is_memory) read_address(code[4] >> 6);
  }

  bool is_known;
  int kind = 0;  // what the prefix stands for << 8 | opcode
  int reg = 0, rm = 0, second = 0;
  bool is_memory = false, has_index_byte = false;
  uint64_t address = 0;  // without the index of one that is a stride
  int64_t stride = 0;
  const uint8_t* end = nullptr;

 private:
  uint64_t value_of(int number) const {
    static constexpr int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                    REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                    REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(registers_[order[number]]);
  }
  void read_address(int mode) {
    const int low = rm & 7;
    bool has_base = mode != 0 || low != 5;
    const bool is_relative = !has_base;
    int base = rm;
    has_index_byte = low == 4;
    if (has_index_byte) {
      const uint8_t sib = *end++;
      base = (sib & 7) | extends_base_ << 3;
      has_base = mode != 0 || (sib & 7) != 5;
      const int index = (sib >> 3 & 7) | extends_index_ << 3;
      if (index != 4) stride = static_cast<int64_t>(value_of(index) << (sib >> 6));
    }
    if (has_base) address = value_of(base);
    if (mode == 1) {
      address += static_cast<uint64_t>(int64_t{static_cast<int8_t>(*end++)});
    } else if (mode == 2 || !has_base) {
      int32_t displacement;
      std::memcpy(&displacement, end, sizeof(displacement));
      end += sizeof(displacement);
      address += static_cast<uint64_t>(int64_t{displacement});
    }
    if (is_relative) address += reinterpret_cast<uint64_t>(end);
  }

  const greg_t* registers_;
  int extends_reg_ = 0, extends_index_ = 0, extends_base_ = 0;
};

constexpr int kNoPrefix = 0x000, kF3 = 0x200, kF2 = 0x300;

// Whether it is one of those that the kernels use.
bool execute(const Instruction& code) {
  auto* memory = reinterpret_cast<uint8_t*>(code.address);
  const bool has_stride = code.is_memory && code.has_index_byte;
  if (code.kind == (kNoPrefix | 0x49) && code.is_memory && code.reg == 0) {
    configure(memory + code.stride);
  } else if (code.kind == (kNoPrefix | 0x49) && !code.is_memory && code.reg + code.rm == 0) {
    release();
  } else if (code.kind == (kF2 | 0x49) && !code.is_memory && code.rm == 0) {
    zero(code.reg);
  } else if (code.kind == (kF2 | 0x4b) && has_stride) {
    load(code.reg, memory, code.stride);
  } else if (code.kind == (kF3 | 0x4b) && has_stride) {
    store(code.reg, memory, code.stride);
  } else if (code.kind == (kF3 | 0x5e) && !code.is_memory) {
    multiply(code.reg, code.rm, code.second, add_bytes);
  } else if (code.kind == (kF3 | 0x5c) && !code.is_memory) {
    multiply(code.reg, code.rm, code.second, add_pairs);
  } else {
    return false;
  }
  return true;
}

void handle(int, siginfo_t*, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction code(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers);
  if (code.is_known && execute(code)) {
    ++num_executed;
    registers[REG_RIP] = reinterpret_cast<greg_t>(code.end);
  } else {
    sigaction(SIGILL, &before, nullptr);  // another's, who meets it again
  }
}

}  // namespace

extern "C" {

void start_emulation() {
  struct sigaction action {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &before);
}
void end_emulation() { sigaction(SIGILL, &before, nullptr); }

// What a processor would have refused first since the last call, or null.
const char* take_fault() { return fault.exchange(nullptr); }
int count_configured_threads() { return threads_configured; }
int64_t count_executed() { return num_executed; }

}  // extern "C"
