#include "optiq/base/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace optiq {
namespace {

/// How long a thread watches for news before it sleeps or lets others run: waking a sleeper takes some tens
/// of microseconds, and between the operations of a decoding step lie only a few.
constexpr std::chrono::microseconds kWatch{150};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Looks until `news` or the time is over; whether there was news.
template <class News>
bool watch(News news) {
  const auto end = std::chrono::steady_clock::now() + kWatch;
  do {
    for (int looks = 0; looks < 64; ++looks) {
      if (news()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

thread_local bool inside_parallel_for = false;

/// One job at a time. A worker enters a job in two steps that the caller's closing mirrors: it counts itself
/// in, then looks whether the job is still open; the caller closes the job, then waits until nobody is
/// counted in. Both orders are sequentially consistent, so one of the two always sees the other.
class Pool {
 public:
  explicit Pool(std::size_t threads) : shares_(threads) {
    try {
      for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error&) {
      // The system allows no more threads: those that there are do the others' shares too.
    }
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
    grain_ = grain;
    deal(count);
    ++generation_;
    open_ = true;
    if (sleepers_ > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    inside_parallel_for = true;
    work(0);
    inside_parallel_for = false;
    open_ = false;
    while (!watch([this] { return inside_ == 0; })) std::this_thread::yield();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  /// A thread's part of the job, on a cache line of its own. Each thread walks through its own part, so that
  /// what it reads is contiguous, then helps with the others'.
  struct alignas(64) Share {
    std::atomic<std::size_t> next = 0;
    std::size_t end = 0;
  };

  /// Whole grains, as even as they can be.
  void deal(std::size_t count) {
    const std::size_t grains = (count + grain_ - 1) / grain_;
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      shares_[i].next = std::min(count, grains * i / shares_.size() * grain_);
      shares_[i].end = std::min(count, grains * (i + 1) / shares_.size() * grain_);
    }
  }

  /// What a body throws is kept for the caller: the others must leave the job before its stack frame goes.
  void work(std::size_t thread) {
    try {
      walk(thread);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void walk(std::size_t thread) {
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      Share& share = shares_[(thread + i) % shares_.size()];
      for (std::size_t begin = share.next.fetch_add(grain_); begin < share.end;
           begin = share.next.fetch_add(grain_)) {
        body_.call(body_.function, begin, std::min(begin + grain_, share.end));
      }
    }
  }

  void serve(std::size_t thread) {
    inside_parallel_for = true;
    for (std::size_t seen = 0; wait_for_job(seen);) {
      ++inside_;
      if (open_) {
        seen = generation_;
        work(thread);
      }
      --inside_;
    }
  }

  [[nodiscard]] bool has_job(std::size_t seen) const { return open_ && generation_ != seen; }

  /// Until there is a job after `seen`; false where the pool stops.
  bool wait_for_job(std::size_t seen) {
    if (watch([&] { return has_job(seen); })) return true;
    std::unique_lock lock(mutex_);
    ++sleepers_;
    wake_.wait(lock, [&] { return stopping_ || has_job(seen); });
    --sleepers_;
    return !stopping_;
  }

  std::mutex callers_;
  // The job: written while it is closed and nobody is inside.
  RangeBody body_{};
  std::size_t grain_ = 1;
  std::vector<Share> shares_;
  std::atomic<std::size_t> generation_ = 0;
  std::atomic<bool> open_ = false;
  std::atomic<int> inside_ = 0;

  std::mutex mutex_;            ///< for sleeping, and for failure_
  std::exception_ptr failure_;  ///< the first of a job
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
