// One process-wide thread pool, used by every kernel and encoder of the library. Nothing else starts compute
// threads.
#pragma once

#include <cstddef>
#include <functional>

namespace optiq {

/// Threads that parallel_for uses, the caller included: OPTIQ_THREADS, or the number of hardware threads.
std::size_t thread_count();

/// Calls body(begin, end) over disjoint ranges that cover [0, count), each at most `grain` long (grain ≥ 1),
/// on the pool and on the calling thread, and returns when all are done. Ranges are handed out dynamically; a
/// result must not depend on which thread ran a range. Nested calls run on the calling thread. `body` must
/// not throw. Idle workers sleep. Cost of an empty call: a few microseconds.
void parallel_for(std::size_t count, std::size_t grain,
                  const std::function<void(std::size_t, std::size_t)>& body);

}  // namespace optiq
