#include "optiq/base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace optiq {
namespace {

using Body = std::function<void(std::size_t, std::size_t)>;

struct Job {
  const Body* body;
  std::size_t count;
  std::size_t grain;
  std::atomic<std::size_t> next{0};
  std::size_t workers = 0;  ///< Pool threads inside this job; guarded by Pool::mutex_.

  void work() {
    for (std::size_t begin = next.fetch_add(grain); begin < count; begin = next.fetch_add(grain)) {
      (*body)(begin, std::min(begin + grain, count));
    }
  }
};

thread_local bool inside_parallel_for = false;

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

  void run(std::size_t count, std::size_t grain, const Body& body) {
    const std::lock_guard one_job_at_a_time(callers_);
    Job job{&body, count, grain};
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    wake_.notify_all();
    inside_parallel_for = true;
    job.work();
    inside_parallel_for = false;
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    done_.wait(lock, [&] { return job.workers == 0; });
  }

 private:
  void serve() {
    inside_parallel_for = true;
    std::size_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || (job_ != nullptr && generation_ != seen); });
      if (stopping_) return;
      seen = generation_;
      Job* job = job_;
      ++job->workers;
      lock.unlock();
      job->work();
      lock.lock();
      if (--job->workers == 0) done_.notify_all();
    }
  }

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  std::size_t generation_ = 0;
  bool stopping_ = false;
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

void parallel_for(std::size_t count, std::size_t grain, const Body& body) {
  if (count == 0) return;
  if (inside_parallel_for || count <= grain || pool().size() == 1) {
    for (std::size_t begin = 0; begin < count; begin += grain) body(begin, std::min(begin + grain, count));
    return;
  }
  pool().run(count, grain, body);
}

}  // namespace optiq
