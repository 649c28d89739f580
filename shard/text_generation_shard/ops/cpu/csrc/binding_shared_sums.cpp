// Sums over processes, as Python makes and calls them.
#include "binding_shared_sums.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <chrono>
#include <cstring>
#include <ctime>
#include <utility>

#include "binding.h"
#include "parallel.h"
#include "shared_sums.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// A slot, and so what is exchanged at one time: parts of all ranks stay in the second cache.
constexpr int64_t kSlotBytes = 256 << 10;
// What a thread copies or adds up at one time.
constexpr int64_t kPiece = 4096;
// How often a rank looks before it gives its core away: longer than others are late that compute as
// much on cores of their own.
constexpr int64_t kLooks = 4096;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Sleep until somebody wakes who sleeps here, at most a second, if the word still is what was seen.
void sleep_at(std::atomic<uint32_t>& word, uint32_t seen) {
  const timespec second{1, 0};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &second, nullptr, 0);
}

void wake_at(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

template <class Body>
void in_pieces(int64_t count, const Body& body) {
  share_out(num_threads(), (count + kPiece - 1) / kPiece, 1, [&](Range pieces) {
    body(Range{pieces.begin * kPiece, std::min(pieces.end * kPiece, count)});
  });
}

}  // namespace

int64_t SharedSums::num_bytes(int64_t world_size) {
  return world_size * (static_cast<int64_t>(sizeof(Arrival)) + 2 * kSlotBytes);
}

SharedSums::SharedSums(Tensor memory, int64_t rank, int64_t world_size, double timeout_s)
    : memory_(std::move(memory)), rank_(rank), world_size_(world_size), timeout_s_(timeout_s) {
  check_dense(memory_, "memory", at::kByte, num_bytes(world_size));
  TORCH_CHECK(0 <= rank && rank < world_size, "rank ", rank, " of ", world_size);
  arrival(rank_).process.store(getpid());
}

void SharedSums::sum(const Tensor& values) {
  check_dense(values, "values", at::kFloat, -1);
  float* const place = values.data_ptr<float>();
  const int64_t count = values.numel();
  sum_all(place, count);
  if (Recording* recording = Recording::active()) {
    recording->append([self = shared_from_this(), place, count] { self->sum_all(place, count); });
  }
}

void SharedSums::gather(const Tensor& own, const Tensor& gathered) {
  TORCH_CHECK(Recording::active() == nullptr, "gathering is not recorded");
  TORCH_CHECK(own.is_contiguous() && gathered.is_contiguous() &&
                  gathered.nbytes() == world_size_ * own.nbytes(),
              "gathered must hold what every rank has, dense");
  const auto bytes = static_cast<int64_t>(own.nbytes());
  const auto* part = static_cast<const char*>(own.const_data_ptr());
  auto* all = static_cast<char*>(gathered.mutable_data_ptr());
  for (int64_t begin = 0; begin < bytes; begin += kSlotBytes) {
    const int64_t size = std::min(kSlotBytes, bytes - begin);
    exchange(part + begin, size);
    for (int64_t rank = 0; rank < world_size_; ++rank) {
      std::memcpy(all + rank * bytes + begin, slot(rank), static_cast<size_t>(size));
    }
  }
}

void SharedSums::sum_all(float* values, int64_t count) {
  constexpr int64_t capacity = kSlotBytes / static_cast<int64_t>(sizeof(float));
  for (int64_t begin = 0; begin < count; begin += capacity) {
    float* const out = values + begin;
    const int64_t size = std::min(capacity, count - begin);
    exchange(out, size * static_cast<int64_t>(sizeof(float)));
    in_pieces(size, [&](Range some) {
      for (int64_t rank = 0; rank < world_size_; ++rank) {
        const auto* part = reinterpret_cast<const float*>(slot(rank));
        for (int64_t i = some.begin; i < some.end; ++i) out[i] = rank == 0 ? part[i] : out[i] + part[i];
      }
    });
  }
}

void SharedSums::exchange(const void* part, int64_t bytes) {
  ++count_;
  char* const place = slot(rank_);
  in_pieces(bytes, [&](Range some) {
    std::memcpy(place + some.begin, static_cast<const char*>(part) + some.begin,
                static_cast<size_t>(some.end - some.begin));
  });
  Arrival& own = arrival(rank_);
  own.count.store(count_);
  if (own.sleepers.load() != 0) wake_at(own.count);
  for (int64_t rank = 0; rank < world_size_; ++rank) wait_for(rank);
}

void SharedSums::wait_for(int64_t rank) const {
  Arrival& other = arrival(rank);
  const auto has_come = [&](uint32_t count) { return static_cast<int32_t>(count - count_) >= 0; };
  for (int64_t looks = 0; looks < kLooks; ++looks) {
    if (has_come(other.count.load())) return;
    __builtin_ia32_pause();
  }
  const double deadline = seconds_now() + timeout_s_;
  ++other.sleepers;
  for (uint32_t count = other.count.load(); !has_come(count); count = other.count.load()) {
    sleep_at(other.count, count);
    const bool is_gone = kill(other.process.load(), 0) != 0 && errno == ESRCH;
    TORCH_CHECK(!is_gone || has_come(other.count.load()), "rank ", rank, " has ended");
    TORCH_CHECK(seconds_now() < deadline, "rank ", rank, " did not come in ", timeout_s_, " s");
  }
  --other.sleepers;
}

SharedSums::Arrival& SharedSums::arrival(int64_t rank) const {
  return static_cast<Arrival*>(memory_.data_ptr())[rank];
}

char* SharedSums::slot(int64_t rank) const {
  const auto parity = static_cast<int64_t>(count_ % 2);
  char* const slots = static_cast<char*>(memory_.data_ptr()) +
                      world_size_ * static_cast<int64_t>(sizeof(Arrival));
  return slots + (2 * rank + parity) * kSlotBytes;
}

void define_shared_sums(pybind11::module_& module) {
  namespace py = pybind11;
  const py::call_guard<py::gil_scoped_release> without_gil;
  py::class_<SharedSums, std::shared_ptr<SharedSums>>(module, "SharedSums")
      .def(py::init<Tensor, int64_t, int64_t, double>())
      .def_static("num_bytes", &SharedSums::num_bytes)
      .def("sum", &SharedSums::sum, without_gil)
      .def("gather", &SharedSums::gather, without_gil);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
