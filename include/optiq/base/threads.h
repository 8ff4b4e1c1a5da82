// One process-wide thread pool, used by every kernel and encoder of the library. Nothing else starts compute
// threads.
#pragma once

#include <cstddef>
#include <memory>

namespace optiq {

/// Threads that parallel_for uses, the caller included: OPTIQ_THREADS, or the number of hardware threads.
std::size_t thread_count();

/// A function of a range, called by reference: nothing is allocated.
struct RangeBody {
  void (*call)(const void* function, std::size_t begin, std::size_t end);
  const void* function;
};
void parallel_for(std::size_t count, std::size_t grain, RangeBody body);

/// Calls body(begin, end) over disjoint ranges that cover [0, count), each at most `grain` long (grain ≥ 1),
/// on the pool and on the calling thread, and returns when all are done. Ranges are handed out dynamically; a
/// result must not depend on which thread ran a range. Nested calls run on the calling thread. An exception
/// of `body` is thrown again here when all threads have left the job; some ranges may then not have run.
/// Workers that have just worked watch for the next call for 150 microseconds, then sleep. Cost of an empty
/// call: below a microsecond while they watch, tens of microseconds to wake them.
template <class Body>
void parallel_for(std::size_t count, std::size_t grain, const Body& body) {
  const auto call = [](const void* function, std::size_t begin, std::size_t end) {
    (*static_cast<const Body*>(function))(begin, end);
  };
  parallel_for(count, grain, RangeBody{call, std::addressof(body)});
}

}  // namespace optiq
