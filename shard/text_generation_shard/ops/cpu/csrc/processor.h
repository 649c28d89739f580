// What this processor, and the system on it, let the library do.
//
// Only declarations: see pool.h.
#pragma once

#include <cstdint>

namespace cpu_operators {

// AVX-512 with what its kernels are compiled for.
bool has_avx512();
// On top of it: dot products of bfloat16 pairs.
bool has_avx512_bf16();

// Whether a processor multiplies bytes and bfloat16 pairs in tile registers, and the system keeps
// these for its threads. `features`: EDX of leaf 7 of `cpuid`; `kept`: XCR0.
bool offers_tiles(uint32_t features, uint64_t kept);

// Whether this process may use the tile registers. Asks for it: Linux gives a process the memory to
// keep them in only then.
bool may_use_tiles();

}  // namespace cpu_operators
