// Recordings of steps, as Python makes and replays them.
#include "binding_recording.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <cstdlib>

#include "recording.h"

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

constexpr size_t kAlignment = 64;
// A block may be so many times larger than what is asked for: recordings of many sizes share blocks,
// and small tensors do not take what large ones will ask for.
constexpr size_t kMaxBlockRatio = 2;

thread_local Recording* active_recording = nullptr;

// Call something with every tensor of a value.
template <class Visit>
void visit_tensors(const IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const IValue& element : value.toListRef()) visit_tensors(element, visit);
  }
}

bool shares_storage(const Tensor& tensor, const Stack& arguments) {
  bool is_shared = false;
  for (const IValue& argument : arguments) {
    visit_tensors(argument, [&](const Tensor& other) {
      is_shared = is_shared || tensor.is_alias_of(other);
    });
  }
  return is_shared;
}

// An operator of torch as it is written down: its arguments' places, and where its results go.
struct TorchCall {
  c10::OperatorHandle op;
  Stack arguments;
  std::vector<std::pair<size_t, Tensor>> results;  // by index

  void operator()() const {
    Stack stack = arguments;
    op.callBoxed(stack);
    for (const auto& [index, place] : results) {
      const Tensor& made = stack[index].toTensor();
      TORCH_CHECK(made.sizes() == place.sizes(), op.schema().name(), " made ", made.sizes(),
                  " where it made ", place.sizes(), " when it was recorded");
      place.copy_(made);
    }
  }
};

}  // namespace

RecordingMemory::~RecordingMemory() {
  for (const auto& [block, bytes] : blocks_) std::free(block);
}

Tensor RecordingMemory::tensor_like(const Tensor& model) {
  const auto [block, bytes] = take(std::max<size_t>(model.storage().nbytes(), 1));
  const auto give_back = [memory = shared_from_this(), bytes = bytes](void* block) {
    memory->give_back(block, bytes);
  };
  return at::from_blob(block, model.sizes(), model.strides(), give_back, model.options());
}

bool RecordingMemory::holds(const Tensor& tensor) const {
  const auto* place = static_cast<const char*>(tensor.storage().data());
  const std::lock_guard lock(mutex_);
  auto next = blocks_.upper_bound(const_cast<char*>(place));
  if (next == blocks_.begin()) return false;
  const auto& [block, bytes] = *--next;
  return place < block + bytes;
}

int64_t RecordingMemory::num_bytes() const {
  const std::lock_guard lock(mutex_);
  size_t sum = 0;
  for (const auto& [block, bytes] : blocks_) sum += bytes;
  return static_cast<int64_t>(sum);
}

std::pair<void*, size_t> RecordingMemory::take(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const auto found = free_.lower_bound(size);
  if (found != free_.end() && found->first <= kMaxBlockRatio * size) {
    const auto [capacity, block] = *found;
    free_.erase(found);
    return {block, capacity};
  }
  void* block = std::aligned_alloc(kAlignment, size);
  TORCH_CHECK(block != nullptr, "can't allocate memory: ", size, " bytes of a recording");
  blocks_.emplace(static_cast<char*>(block), size);
  return {block, size};
}

void RecordingMemory::give_back(void* block, size_t bytes) {
  const std::lock_guard lock(mutex_);
  free_.emplace(bytes, block);
}

Recording* Recording::active() { return active_recording; }

void Recording::begin() {
  TORCH_CHECK(active_recording == nullptr, "this thread is recording already");
  active_recording = this;
}

void Recording::end() { active_recording = nullptr; }

void Recording::call(const c10::OperatorHandle& op, Stack& stack, bool is_allocation) {
  const Stack arguments = stack;
  op.callBoxed(stack);
  TorchCall written{op, {}, {}};
  for (size_t index = 0; index < stack.size(); ++index) {
    visit_tensors(stack[index], [&](const Tensor& made) {
      if (shares_storage(made, arguments)) {
        if (!memory_->holds(made)) held_.push_back(made);
        return;
      }
      TORCH_CHECK(stack[index].isTensor(), op.schema().name(), " makes a list of tensors");
      Tensor place = memory_->tensor_like(made);
      if (!is_allocation) place.copy_(made);
      written.results.emplace_back(index, std::move(place));
    });
  }
  for (const auto& [index, place] : written.results) stack[index] = place;
  if (is_allocation || (written.results.empty() && !op.schema().is_mutable())) return;
  for (const IValue& argument : arguments) written.arguments.push_back(place_of(argument));
  for (auto& [index, place] : written.results) place = place_of(place).toTensor();
  append(std::move(written));
}

// The same, but that what lies in the memory is not held: its block is given out again.
IValue Recording::place_of(const IValue& argument) const {
  if (argument.isTensor()) {
    const Tensor& tensor = argument.toTensor();
    if (!tensor.defined() || !memory_->holds(tensor)) return argument;
    return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options());
  }
  if (!argument.isList()) return argument;
  c10::impl::GenericList places(argument.toList().elementType());
  for (const IValue& element : argument.toListRef()) places.push_back(place_of(element));
  return places;
}

void Recording::replay() const {
  for (const auto& operation : operations_) operation();
}

int64_t Gate::expect(int64_t arrivals) {
  const std::lock_guard lock(mutex_);
  missing_ = arrivals;
  return ++step_;
}

void Gate::arrive(int64_t step) {
  const std::lock_guard lock(mutex_);
  if (step == step_ && --missing_ == 0) arrived_.notify_all();
}

void Gate::wait() {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [this] { return missing_ <= 0; });
}

void define_recording(pybind11::module_& module) {
  namespace py = pybind11;
  const py::call_guard<py::gil_scoped_release> without_gil;
  py::class_<Gate, std::shared_ptr<Gate>>(module, "Gate")
      .def(py::init<>())
      .def("expect", &Gate::expect)
      .def("arrive", &Gate::arrive)
      .def("wait", [](const std::shared_ptr<Gate>& gate) { check_values([gate] { gate->wait(); }); },
           without_gil);
  py::class_<RecordingMemory, std::shared_ptr<RecordingMemory>>(module, "RecordingMemory")
      .def(py::init<>())
      .def("new_recording",
           [](const std::shared_ptr<RecordingMemory>& memory) { return Recording(memory); })
      .def_property_readonly("num_bytes", &RecordingMemory::num_bytes);
  py::class_<Recording>(module, "Recording")
      .def("begin", &Recording::begin)
      .def("end", &Recording::end)
      .def("call",
           [](Recording& recording, const std::string& name, const std::string& overload,
              const py::tuple& args, const py::dict& kwargs, bool is_allocation) {
             const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
             const torch::jit::ToIValueAllowNumbersAsTensors allow_numbers(true);
             Stack stack =
                 torch::jit::createStackForSchema(
                 op.schema(), args, py::reinterpret_borrow<py::kwargs>(kwargs), std::nullopt);
             recording.call(op, stack, is_allocation);
             return torch::jit::createPyObjectForStack(std::move(stack));
           })
      .def("replay", &Recording::replay, without_gil)
      .def_property_readonly("num_operations", &Recording::num_operations);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
