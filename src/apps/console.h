// What every verb shares: where its output goes, and how it ends.
#pragma once

#include <chrono>
#include <string>

#include "optiq/base/json.h"
#include "optiq/base/progress.h"
#include "optiq/base/result.h"
#include "optiq/workers/workers.h"

namespace optiq::apps {

/// Of several workers, the first one speaks; the others only report errors. Human text goes to stdout and
/// progress to stderr; with --json, stdout gets exactly one JSON object.
class Console {
 public:
  bool json = false;
  bool quiet = false;  ///< no progress
  Workers workers;     ///< who share the verb's work

  /// A progress bar with the time left on a terminal; a line every ten seconds elsewhere.
  [[nodiscard]] Progress progress();
  /// Ends the progress line, if one is shown.
  void end_progress();
  /// Text for people; nothing with --json.
  void print(const std::string& text) const;
  /// The one object of --json; nothing without it.
  void print_json(const Json& object) const;
  /// Reports an error (to stderr, and as {"error": …} with --json) and returns its exit code.
  int fail_with(const Error& error);

 private:
  void draw(std::string_view what, double done, double total);

  std::string stage_;
  double stage_start_done_ = 0;
  std::chrono::steady_clock::time_point stage_start_;
  std::chrono::steady_clock::time_point last_drawn_;
  bool line_open_ = false;
};

}  // namespace optiq::apps
