// Sharing work out among the threads of the pool.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "pool.h"

namespace cpu_operators::CPU_OPERATORS_ISA {

// A half-open range.
struct Range {
  int64_t begin, end;
};

enum class Order { kOwnShareFirst, kInOrder };

// Call `body(Range)` for pieces of [0, units), of `grain` units or, on a single thread, of any
// number of them, until all units were computed once. Which thread computes which is not known.
template <class Body>
void share_out(int num_threads, int64_t units, int64_t grain, const Body& body,
               Order order = Order::kOwnShareFirst) {
  const auto compute = [](const void* context, int64_t begin, int64_t end) {
    (*static_cast<const Body*>(context))(Range{begin, end});
  };
  run({num_threads, units, grain, order == Order::kInOrder, compute, &body});
}

// Rows of light work, such as a norm: shared out only if there are enough elements to be worth it.
template <class Body>
void share_out_rows(int num_threads, int64_t rows, int64_t elements_per_row, const Body& body) {
  constexpr int64_t elements_per_piece = 16384;
  const int64_t grain = elements_per_piece / (elements_per_row > 0 ? elements_per_row : 1);
  share_out(num_threads, rows, grain > 1 ? grain : 1, [&](Range some) {
    for (int64_t row = some.begin; row < some.end; ++row) body(row);
  });
}

// Memory for intermediate results that one calling thread uses again and again: fresh memory costs
// page faults.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  // At least so many bytes, aligned to a cache line; what was there is lost.
  void* reserve(int64_t bytes) {
    if (bytes > capacity_) {
      std::free(memory_);
      capacity_ = (bytes + bytes / 2 + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(4096, static_cast<size_t>(capacity_));
      if (memory_ == nullptr) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
