// Attention of a step: cut into tasks that threads take one after the other, long ones first.
#include "attention.h"

#include <type_traits>
#include <vector>

namespace cpu_operators::CPU_OPERATORS_ISA {
namespace {

// Rows of queries (tokens times query heads) in one task of a chunk.
constexpr int64_t kTaskRows = 192;
// Query heads in one task: where one KV head serves many (multi-query and latent attention), the
// threads share them.
constexpr int64_t kTaskHeads = 16;
// Tasks of single rows that there should be for each thread, before they take several KV heads.
constexpr int64_t kTasksPerThread = 4;

// The task for all query heads, `heads` of one KV head at a time.
void add_tasks_of_heads(const AttentionCall& call, AttentionTask task, int64_t heads,
                        std::vector<AttentionTask>& tasks) {
  for (int64_t stop = group_size(call); stop <= call.num_heads; stop += group_size(call)) {
    for (int64_t head = stop - group_size(call); head < stop; head += heads) {
      task.heads = {head, head + heads < stop ? head + heads : stop};
      tasks.push_back(task);
    }
  }
}

// A row for all query heads, with as many KV heads in a task as leave enough for all threads: a
// task then reads more of the cache as it lies. Every head is computed alike, however they are cut.
void add_row_tasks(const AttentionCall& call, AttentionTask task, int64_t num_rows,
                   std::vector<AttentionTask>& tasks) {
  if (group_size(call) > kTaskHeads) return add_tasks_of_heads(call, task, kTaskHeads, tasks);
  const int64_t num_kv_heads = call.cache.num_kv_heads;
  const int64_t wanted = (kTasksPerThread * call.num_threads + num_rows - 1) / num_rows;
  const int64_t parts = wanted < num_kv_heads ? wanted : num_kv_heads;
  for (int64_t part = 0; part < parts; ++part) {
    task.heads = {part * num_kv_heads / parts * group_size(call),
                  (part + 1) * num_kv_heads / parts * group_size(call)};
    tasks.push_back(task);
  }
}

std::vector<AttentionTask> tasks_of(const AttentionCall& call) {
  const int64_t heads = group_size(call) < kTaskHeads ? group_size(call) : kTaskHeads;
  const int64_t tokens_per_task = kTaskRows / heads;
  std::vector<AttentionTask> tasks;
  // Requests come in ascending order of context, chunks last; the work of a chunk's rows grows.
  for (int64_t request = call.requests - 1; request >= 0; --request) {
    const Range rows{call.first_rows[request], call.first_rows[request + 1]};
    const int64_t start = call.contexts[request] - (rows.end - rows.begin);
    for (int64_t end = rows.end; end > rows.begin; end -= tokens_per_task) {
      const int64_t begin = end - tokens_per_task > rows.begin ? end - tokens_per_task : rows.begin;
      const AttentionTask task{request, {}, {begin, end}, start + begin - rows.begin};
      if (end - begin == 1) {
        add_row_tasks(call, task, call.requests, tasks);
      } else {
        add_tasks_of_heads(call, task, heads, tasks);
      }
    }
  }
  return tasks;
}

bool is_row(const AttentionTask& task) { return task.rows.end - task.rows.begin == 1; }

// The row that the thread which has task `index` is likely to take next, for the same heads; or
// null.
const AttentionTask* following(const AttentionCall& call, const std::vector<AttentionTask>& tasks,
                               int64_t index) {
  const auto here = static_cast<size_t>(index), next = here + static_cast<size_t>(call.num_threads);
  if (next >= tasks.size() || !is_row(tasks[next])) return nullptr;
  return tasks[next].heads.begin == tasks[here].heads.begin ? &tasks[next] : nullptr;
}

template <class Element>
void run_task(const AttentionCall& call, const std::vector<AttentionTask>& tasks, int64_t index) {
  const AttentionTask& task = tasks[static_cast<size_t>(index)];
#if defined(__AVX512BF16__)
  if (std::is_same_v<Element, BFloat16> && takes_pairs(call)) {
    if (!is_row(task)) return attend_pairs(call, task);
    // A row whose heads share nothing waits for memory, not for products: it keeps float32.
    if (group_size(call) > 1) return attend_row_pairs(call, task, following(call, tasks, index));
  }
#endif
  if (is_row(task)) return attend_row<Element>(call, task, following(call, tasks, index));
  attend_chunk<Element>(call, task);
}

}  // namespace

void attend(const AttentionCall& call) {
  const std::vector<AttentionTask> tasks = tasks_of(call);
  const auto compute = [&](Range some) {
    for (int64_t index = some.begin; index < some.end; ++index) {
      with_element(call.cache, [&](auto element) {
        run_task<decltype(element)>(call, tasks, index);
      });
    }
  };
  share_out(call.num_threads, static_cast<int64_t>(tasks.size()), 1, compute, Order::kInOrder);
}

}  // namespace cpu_operators::CPU_OPERATORS_ISA
