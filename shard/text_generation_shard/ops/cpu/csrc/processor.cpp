#include "processor.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cpu_operators {
namespace {

// Intel's Software Developer's Manual: CPUID in volume 2, XCR0 in volume 1, 13.3.
constexpr uint32_t kBfloat16Tiles = 1u << 22, kTiles = 1u << 24, kInt8Tiles = 1u << 25;
constexpr uint32_t kSystemUsesXsave = 1u << 27;
constexpr uint64_t kKeepsShapes = 1u << 17, kKeepsTiles = 1u << 18;

// Linux: Documentation/arch/x86/xstate.rst.
constexpr long kRequestState = 0x1023, kTileState = 18;

bool has_all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

uint64_t kept_state() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

}  // namespace

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

bool offers_tiles(uint32_t features, uint64_t kept) {
  return has_all(features, kBfloat16Tiles | kTiles | kInt8Tiles) &&
         has_all(kept, kKeepsShapes | kKeepsTiles);
}

bool may_use_tiles() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, kSystemUsesXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !offers_tiles(d, kept_state())) return false;
  return syscall(SYS_arch_prctl, kRequestState, kTileState) == 0;
}

}  // namespace cpu_operators
