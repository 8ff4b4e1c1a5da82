// How a long operation tells its caller where it is. The library reports; apps draw.
#pragma once

#include <functional>
#include <string_view>

namespace optiq {

/// Called from the thread that runs the operation, at most a few times a second of work: what is being done,
/// and how many of how many units are finished. May be empty.
using Progress = std::function<void(std::string_view what, double done, double total)>;

inline void report_progress(const Progress& progress, std::string_view what, double done, double total) {
  if (progress) progress(what, done, total);
}

}  // namespace optiq
