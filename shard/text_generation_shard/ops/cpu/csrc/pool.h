// The threads of this process that compute: one pool, shared by all operators of all instruction
// sets.
//
// Work is a number of units, such as panels of weights. Every thread owns an even share of them and
// claims a few at a time, so that a core mostly streams its own memory; who has finished a share
// takes from the others'. The calling thread works too, and waits for units that somebody has begun,
// never for a thread that has begun none: where neighbours hold the cores, a thread that gets no
// time costs nothing but its help. Results do not depend on who computes what.
//
// Only declarations: an inline function here would be linked once, for a processor that may not be
// this one.
#pragma once

#include <cstdint>

namespace cpu_operators {

struct Job {
  int num_threads;    // at most so many, the calling one included
  int64_t units;      // less than 2^32
  int64_t grain;      // units that are claimed at one time, at least 1
  bool is_in_order;   // all threads take from one queue, first units first
  void (*compute)(const void* context, int64_t begin, int64_t end);
  const void* context;
};

// Compute all units. A second thread that calls while a job runs computes its own alone.
void run(const Job& job);

// How many threads operators use; 1 at first.
int num_threads();
void set_num_threads(int count);

}  // namespace cpu_operators
