// A step written down as it is computed, to be computed again by one call.
//
// While a recording is a thread's active one, every kernel that is called there runs and is written
// down, as is every operator of torch that is handed to it: with the places of its arguments, not
// with what stands there. What is made on the way lies in memory that is given out again as soon as
// nobody holds it, as it is in the step itself: so a replay touches no more memory than the step.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace c10 {
class OperatorHandle;
}

namespace cpu_operators::CPU_OPERATORS_ISA {

// Memory of recordings of which one computes at a time; grows, and stays until nobody holds it.
class RecordingMemory : public std::enable_shared_from_this<RecordingMemory> {
 public:
  RecordingMemory() = default;
  RecordingMemory(const RecordingMemory&) = delete;
  RecordingMemory& operator=(const RecordingMemory&) = delete;
  ~RecordingMemory();

  // A tensor like the model, its elements undefined. Its block is free again when its storage is.
  at::Tensor tensor_like(const at::Tensor& model);
  bool holds(const at::Tensor& tensor) const;
  int64_t num_bytes() const;

 private:
  std::pair<void*, size_t> take(size_t bytes);
  void give_back(void* block, size_t bytes);

  mutable std::mutex mutex_;  // a tensor may be freed on any thread
  std::map<char*, size_t> blocks_;
  std::multimap<size_t, void*> free_;
};

class Recording {
 public:
  explicit Recording(std::shared_ptr<RecordingMemory> memory) : memory_(std::move(memory)) {}

  // That of this thread, or null.
  static Recording* active();
  void begin();
  void end();

  void append(std::function<void()> operation) { operations_.push_back(std::move(operation)); }

  // Call an operator of torch. What it makes, and is no view of an argument, is moved to the
  // memory; unless it is only a place (`is_allocation`), the operator is written down.
  void call(const c10::OperatorHandle& op, std::vector<c10::IValue>& stack, bool is_allocation);

  // Compute all again, on what stands in the arguments' places now.
  void replay() const;

  int64_t num_operations() const { return static_cast<int64_t>(operations_.size()); }

 private:
  c10::IValue place_of(const c10::IValue& argument) const;

  std::shared_ptr<RecordingMemory> memory_;
  std::vector<std::function<void()>> operations_;
  // What was made or looked at in other memory: kernels know its address only.
  std::vector<at::Tensor> held_;
};

// Where a step waits for what other threads write for it.
class Gate {
 public:
  // So many arrivals are waited for from here on; returns what they name. Others, of a step that was
  // given up, count no more.
  int64_t expect(int64_t arrivals);
  void arrive(int64_t step);
  // Until all have arrived: now, and whenever the step is replayed.
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  int64_t step_ = 0, missing_ = 0;
};

// Check values that a replay finds changed: now, and whenever the step is replayed.
template <class Check>
void check_values(const Check& check) {
  check();
  if (Recording* recording = Recording::active()) recording->append(check);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA

template <class Call>
void cpu_operators::Kernel<Call>::operator()(const Call& call) const {
  using CPU_OPERATORS_ISA::Recording;
  compute(call);
  if (Recording* recording = Recording::active()) {
    recording->append([compute = compute, again = call]() mutable {
      if constexpr (requires { again.num_threads; }) again.num_threads = num_threads();
      compute(again);
    });
  }
}
