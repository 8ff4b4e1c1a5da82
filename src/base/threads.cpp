#include "optiq/base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace optiq {
namespace {

/// How often a thread looks for news before it sleeps: some tens of microseconds.
constexpr int kLooks = 2000;

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool inside_parallel_for = false;

/// One job at a time. A worker enters a job in two steps that the caller's closing mirrors: it counts itself
/// in, then looks whether the job is still open; the caller closes the job, then waits until nobody is
/// counted in. Both orders are sequentially consistent, so one of the two always sees the other.
class Pool {
 public:
  explicit Pool(std::size_t threads) {
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
  }

  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  [[nodiscard]] std::size_t size() const { return workers_.size() + 1; }

  void run(std::size_t count, std::size_t grain, RangeBody body) {
    const std::lock_guard one_job_at_a_time(callers_);
    body_ = body;
    count_ = count;
    grain_ = grain;
    next_ = 0;
    ++generation_;
    open_ = true;
    if (sleepers_ > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    inside_parallel_for = true;
    work();
    inside_parallel_for = false;
    open_ = false;
    for (int looks = 0; inside_ > 0; ++looks) {
      if (looks < kLooks) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  void work() {
    for (std::size_t begin = next_.fetch_add(grain_); begin < count_; begin = next_.fetch_add(grain_)) {
      body_.call(body_.function, begin, std::min(begin + grain_, count_));
    }
  }

  void serve() {
    inside_parallel_for = true;
    for (std::size_t seen = 0; wait_for_job(seen);) {
      ++inside_;
      if (open_) {
        seen = generation_;
        work();
      }
      --inside_;
    }
  }

  [[nodiscard]] bool has_job(std::size_t seen) const { return open_ && generation_ != seen; }

  /// Until there is a job after `seen`; false where the pool stops.
  bool wait_for_job(std::size_t seen) {
    for (int looks = 0; looks < kLooks; ++looks) {
      if (has_job(seen)) return true;
      pause_briefly();
    }
    std::unique_lock lock(mutex_);
    ++sleepers_;
    wake_.wait(lock, [&] { return stopping_ || has_job(seen); });
    --sleepers_;
    return !stopping_;
  }

  std::mutex callers_;
  // The job: written while it is closed and nobody is inside.
  RangeBody body_{};
  std::size_t count_ = 0, grain_ = 1;
  std::atomic<std::size_t> next_ = 0, generation_ = 0;
  std::atomic<bool> open_ = false;
  std::atomic<int> inside_ = 0;

  std::mutex mutex_;  ///< for sleeping
  std::condition_variable wake_;
  std::atomic<int> sleepers_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

std::size_t configured_threads() {
  if (const char* text = std::getenv("OPTIQ_THREADS")) {
    const long wanted = std::strtol(text, nullptr, 10);
    if (wanted >= 1 && wanted <= 1024) return static_cast<std::size_t>(wanted);
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

Pool& pool() {
  static Pool instance(configured_threads());
  return instance;
}

}  // namespace

std::size_t thread_count() {
  return pool().size();
}

void parallel_for(std::size_t count, std::size_t grain, RangeBody body) {
  if (count == 0) return;
  if (inside_parallel_for || count <= grain || pool().size() == 1) {
    for (std::size_t begin = 0; begin < count; begin += grain) {
      body.call(body.function, begin, std::min(begin + grain, count));
    }
    return;
  }
  pool().run(count, grain, body);
}

}  // namespace optiq
