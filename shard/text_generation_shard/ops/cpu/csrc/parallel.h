// Work on torch's own OpenMP threads, as many as torch.set_num_threads allows.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace cpu_operators::CPU_OPERATORS_ISA {

// A half-open range.
struct Range {
  int64_t begin, end;
};

// One of several threads that work together.
struct Worker {
  int index, count;

  // This thread's even share of [0, total).
  Range share(int64_t total) const {
    return {index * total / count, (index + 1) * total / count};
  }
  // Wait until all threads are here.
  void wait_for_all() const {
#pragma omp barrier
  }
};

// Call `body(worker)` on `num_threads` threads at the same time.
template <class Body>
void on_threads(int num_threads, const Body& body) {
  if (num_threads <= 1) {
    body(Worker{0, 1});
    return;
  }
#pragma omp parallel num_threads(num_threads)
  body(Worker{omp_get_thread_num(), omp_get_num_threads()});
}

// Threads worth waking for so many elements of light work.
inline int threads_for(int64_t elements, int num_threads) {
  constexpr int64_t elements_per_thread = 16384;
  const int64_t worth = elements / elements_per_thread;
  return static_cast<int>(worth < 1 ? 1 : worth < num_threads ? worth : num_threads);
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
