// Sums over the processes of a machine, through memory that all of them have mapped.
//
// A decode step sums a few kilobytes twice a layer, and a socket takes as long for that as the
// processor for the layer. Every rank writes its part into one of its two slots, says so, waits until
// all have, and adds up the parts in the order of the ranks, so that the sums are equal to the last
// bit everywhere. The next sum takes the other slots: who has said that its part of that one is there
// has read all parts of this one.
//
//     memory   [ arrivals, a cache line for each rank | slots of rank 0: even, odd | of rank 1 ... ]
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace cpu_operators::CPU_OPERATORS_ISA {

class SharedSums : public std::enable_shared_from_this<SharedSums> {
 public:
  // Bytes of the memory, which begins as zeros.
  static int64_t num_bytes(int64_t world_size);

  // memory: uint8, the same on all ranks, each of which is a process. No rank may call anything
  // before all have been made. timeout_s: how long a rank waits for another one.
  SharedSums(at::Tensor memory, int64_t rank, int64_t world_size, double timeout_s);

  // The sum over ranks, in place; all ranks call this in the same order. Written down where this
  // thread is recording. Raises when another rank has ended, or does not come.
  void sum(const at::Tensor& values);

  // gathered[rank] = own on every rank, of one shape; bytes: in the same order as sums.
  void gather(const at::Tensor& own, const at::Tensor& gathered);

 private:
  struct alignas(64) Arrival {
    std::atomic<uint32_t> count;
    std::atomic<uint32_t> sleepers;
    std::atomic<int32_t> process;
  };

  void sum_all(float* values, int64_t count);
  // Write a part, and wait for all others'.
  void exchange(const void* part, int64_t bytes);
  void wait_for(int64_t rank) const;
  Arrival& arrival(int64_t rank) const;
  char* slot(int64_t rank) const;

  const at::Tensor memory_;
  const int64_t rank_, world_size_;
  const double timeout_s_;
  uint32_t count_ = 0;  // of exchanges that this rank has begun; may begin again at 0
};

}  // namespace cpu_operators::CPU_OPERATORS_ISA
