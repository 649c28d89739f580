#include "binding_huge_pages.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "layout.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

constexpr int64_t kHugePageBytes = 2 << 20;
// Many small tensors share a mapping. What nobody takes of it is never touched, and costs nothing.
constexpr int64_t kMappingBytes = 64 << 20;
constexpr int64_t kAlignment = 64;

// Fresh memory of the kernel's. The heap's would often be some that was in use before, in small
// pages, which stay small whatever is advised.
class Mapping {
 public:
  explicit Mapping(int64_t bytes)
      : bytes_(ceil_div(bytes, kHugePageBytes) * kHugePageBytes + kHugePageBytes),
        memory_(mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    TORCH_CHECK(memory_ != MAP_FAILED, "can't allocate memory: ", bytes, " bytes of weights");
    // One page more than was asked for, so that there are enough from the first whole one on.
    taken_ = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory_)) & (kHugePageBytes - 1);
    madvise(static_cast<char*>(memory_) + taken_, static_cast<size_t>(bytes_ - taken_),
            MADV_HUGEPAGE);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(memory_, static_cast<size_t>(bytes_)); }

  bool has_left(int64_t bytes) const { return bytes <= bytes_ - taken_; }
  void* take(int64_t bytes) {
    void* place = static_cast<char*>(memory_) + taken_;
    taken_ += ceil_div(bytes, kAlignment) * kAlignment;
    return place;
  }

 private:
  int64_t bytes_;
  void* memory_;
  int64_t taken_ = 0;
};

}  // namespace

at::Tensor in_huge_pages(int64_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Mapping> last;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Mapping> mapping = last.lock();
  if (mapping == nullptr || !mapping->has_left(bytes)) {
    mapping = std::make_shared<Mapping>(std::max(bytes, kMappingBytes));
    last = mapping;
  }
  void* place = mapping->take(bytes);
  return at::from_blob(place, {bytes}, [mapping](void*) {}, at::kByte);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
