#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <mutex>
#include <system_error>
#include <thread>

namespace cpu_operators {
namespace {

constexpr int kMaxThreads = 256;
// How long a thread looks for work before it sleeps: longer than what lies between two operators of
// a step, much shorter than a scheduler's time slice.
constexpr std::chrono::microseconds kIdlePatience{60};
// How long the caller looks for the end of a job: about a piece. A thread that takes longer was
// interrupted, and may go on where the caller sleeps.
constexpr std::chrono::microseconds kEndPatience{15};
constexpr int kLooksPerClockRead = 16;

using Word = std::atomic<uint32_t>;
static_assert(sizeof(Word) == sizeof(uint32_t) && Word::is_always_lock_free);

void sleep_while(const Word& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake_all(const Word& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Whether `is_reached()` within some time.
template <class Condition>
bool look_for(const Condition& is_reached, std::chrono::microseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int look = 0; look < kLooksPerClockRead; ++look) {
      if (is_reached()) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Jobs are numbered. A thread may be late and read a job that is over, while the next one is written
// down over it. It can do no harm: units are claimed by exchanging a word that holds the job's
// number too, and before a job is written down those words of the last one are closed. If a claim
// succeeds, the job was open when it was made, and all that was read of it before is of that job.
class Pool {
 public:
  void run(const Job& job);

 private:
  // One share of the units: number of the job << 32 | first unit that nobody has claimed. A closed
  // one has number 0.
  struct alignas(64) Share {
    std::atomic<uint64_t> next{0};
  };
  struct Claim {
    int64_t begin, end;
  };

  void start_threads(int count);
  void serve(int index);
  void close_last_job();
  void publish(const Job& job, int num_threads);
  uint32_t next_number(uint32_t last);
  Job read_job() const;
  void compute(const Job& job, uint32_t number, int index);
  bool claim(const Job& job, uint32_t number, int share, Claim& claimed);
  void finish(const Job& job, int64_t units);
  void wait_for_end(int64_t units);

  std::mutex caller_;
  int num_started_ = 0;

  // The job. Late threads may read while it is written.
  std::atomic<int> num_threads_{1};
  std::atomic<int64_t> units_{0}, grain_{1};
  std::atomic<bool> is_in_order_{false};
  std::atomic<void (*)(const void*, int64_t, int64_t)> compute_{nullptr};
  std::atomic<const void*> context_{nullptr};
  Share shares_[kMaxThreads];

  alignas(64) Word number_{0};      // of the last job
  std::atomic<int> num_asleep_{0};  // threads that sleep until the number changes
  alignas(64) Word finished_{0};    // units of the job
  std::atomic<bool> is_caller_asleep_{false};
};

int num_shares(const Job& job) { return job.is_in_order ? 1 : job.num_threads; }

void Pool::run(const Job& job) {
  const int64_t pieces = (job.units + job.grain - 1) / job.grain;
  const int wanted =
      static_cast<int>(std::min<int64_t>({job.num_threads, pieces, int64_t{kMaxThreads}}));
  std::unique_lock<std::mutex> lock(caller_, std::defer_lock);
  if (wanted <= 1 || !lock.try_lock()) return job.compute(job.context, 0, job.units);
  start_threads(wanted - 1);
  publish(job, wanted);
  compute(read_job(), number_.load(std::memory_order_relaxed), 0);
  wait_for_end(job.units);
}

void Pool::start_threads(int count) {
  if (num_started_ >= count) return;
  // Signals are the interpreter's, but for the faults of the thread itself: who has a handler for
  // these, such as Python's faulthandler, hears of them.
  sigset_t others, before;
  sigfillset(&others);
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigdelset(&others, fault);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  try {
    for (; num_started_ < count; ++num_started_) {
      std::thread thread(&Pool::serve, this, num_started_ + 1);
      pthread_setname_np(thread.native_handle(), "operators");
      thread.detach();
    }
  } catch (const std::system_error&) {
    // There are as many as the system allows.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pool::close_last_job() {
  const int shares = num_shares(read_job());
  for (int share = 0; share < shares; ++share) {
    shares_[share].next.store(0, std::memory_order_relaxed);
  }
}

void Pool::publish(const Job& job, int num_threads) {
  close_last_job();
  // Who reads one of these finds the last job closed.
  constexpr auto release = std::memory_order_release;
  num_threads_.store(num_threads, release);
  units_.store(job.units, release);
  grain_.store(job.grain, release);
  is_in_order_.store(job.is_in_order, release);
  compute_.store(job.compute, release);
  context_.store(job.context, release);
  finished_.store(0, release);
  uint32_t number = number_.load(std::memory_order_relaxed) + 1;
  number += number == 0;
  const int shares = num_shares(read_job());
  for (int share = 0; share < shares; ++share) {
    const auto begin = static_cast<uint64_t>(share * job.units / shares);
    shares_[share].next.store(uint64_t{number} << 32 | begin, std::memory_order_release);
  }
  number_.store(number, std::memory_order_seq_cst);
  if (num_asleep_.load(std::memory_order_seq_cst) > 0) wake_all(number_);
}

Job Pool::read_job() const {
  constexpr auto acquire = std::memory_order_acquire;
  return {num_threads_.load(acquire), units_.load(acquire),   grain_.load(acquire),
          is_in_order_.load(acquire), compute_.load(acquire), context_.load(acquire)};
}

void Pool::serve(int index) {
  for (uint32_t number = 0;;) {
    number = next_number(number);
    const Job job = read_job();
    if (index < job.num_threads) compute(job, number, index);
  }
}

uint32_t Pool::next_number(uint32_t last) {
  uint32_t number = last;
  const auto is_new = [&] {
    number = number_.load(std::memory_order_acquire);
    return number != last;
  };
  while (!look_for(is_new, kIdlePatience)) {
    num_asleep_.fetch_add(1, std::memory_order_seq_cst);
    sleep_while(number_, last);
    num_asleep_.fetch_sub(1, std::memory_order_seq_cst);
  }
  return number;
}

void Pool::compute(const Job& job, uint32_t number, int index) {
  const int shares = num_shares(job);
  for (int i = 0; i < shares; ++i) {
    Claim claimed;
    while (claim(job, number, (index + i) % shares, claimed)) {
      job.compute(job.context, claimed.begin, claimed.end);
      finish(job, claimed.end - claimed.begin);
    }
  }
}

bool Pool::claim(const Job& job, uint32_t number, int share, Claim& claimed) {
  std::atomic<uint64_t>& next = shares_[share].next;
  const int64_t end = (share + 1) * job.units / num_shares(job);
  uint64_t now = next.load(std::memory_order_acquire);
  while (now >> 32 == number) {
    claimed.begin = static_cast<int64_t>(now & UINT32_MAX);
    if (claimed.begin >= end) return false;
    claimed.end = std::min(claimed.begin + job.grain, end);
    const uint64_t rest = uint64_t{number} << 32 | static_cast<uint64_t>(claimed.end);
    if (next.compare_exchange_weak(now, rest, std::memory_order_acq_rel)) return true;
  }
  return false;
}

void Pool::finish(const Job& job, int64_t units) {
  const uint32_t finished =
      finished_.fetch_add(static_cast<uint32_t>(units), std::memory_order_seq_cst) +
      static_cast<uint32_t>(units);
  const bool is_last = finished == static_cast<uint32_t>(job.units);
  if (is_last && is_caller_asleep_.load(std::memory_order_seq_cst)) wake_all(finished_);
}

void Pool::wait_for_end(int64_t units) {
  uint32_t finished = 0;
  const auto is_over = [&] {
    finished = finished_.load(std::memory_order_seq_cst);
    return finished == static_cast<uint32_t>(units);
  };
  if (look_for(is_over, kEndPatience)) return;
  is_caller_asleep_.store(true, std::memory_order_seq_cst);
  while (!is_over()) sleep_while(finished_, finished);
  is_caller_asleep_.store(false, std::memory_order_relaxed);
}

// Never destroyed: its threads end with the process.
Pool& pool() {
  static Pool& only = *new Pool;
  return only;
}

std::atomic<int> wanted_threads{1};

}  // namespace

void run(const Job& job) { pool().run(job); }

int num_threads() { return wanted_threads.load(std::memory_order_relaxed); }

void set_num_threads(int count) {
  wanted_threads.store(std::clamp(count, 1, kMaxThreads), std::memory_order_relaxed);
}

}  // namespace cpu_operators
