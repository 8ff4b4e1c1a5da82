#include "console.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "optiq/base/units.h"

namespace optiq::apps {
namespace {

constexpr int kBarWidth = 30;

using Seconds = std::chrono::duration<double>;

std::string_view code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::internal:
      return "internal";
    case ErrorCode::usage:
      return "usage";
    case ErrorCode::bad_input:
      return "bad_input";
    case ErrorCode::impossible_budget:
      return "impossible_budget";
    case ErrorCode::out_of_resources:
      return "out_of_resources";
  }
  return "internal";
}

}  // namespace

Progress Console::progress() {
  if (quiet || !workers.is_first()) return {};
  return [this](std::string_view what, double done, double total) { draw(what, done, total); };
}

void Console::draw(std::string_view what, double done, double total) {
  const auto now = std::chrono::steady_clock::now();
  const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
  if (what != stage_) {
    end_progress();
    stage_ = what;
    stage_start_ = now;
    stage_start_done_ = done;
    last_drawn_ = {};
  }
  if (Seconds(now - last_drawn_).count() < (is_terminal ? 0.1 : 10.0)) return;
  last_drawn_ = now;
  const double fraction = total > 0 ? std::clamp(done / total, 0.0, 1.0) : 0;
  const double advanced = done - stage_start_done_;
  const double elapsed = Seconds(now - stage_start_).count();
  const std::string left = advanced > 0 ? format_duration(elapsed * (total - done) / advanced) + " left" : "";
  const auto filled = static_cast<std::size_t>(fraction * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  const std::string line = fmt::format("{} [{}] {:3.0f}% {}", stage_, bar, 100 * fraction, left);
  std::fprintf(stderr, is_terminal ? "\r\033[K%s" : "%s\n", line.c_str());
  std::fflush(stderr);
  line_open_ = is_terminal;
}

void Console::end_progress() {
  if (line_open_) std::fputs("\r\033[K", stderr);
  line_open_ = false;
}

void Console::print(const std::string& text) const {
  if (json || !workers.is_first()) return;
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);  // through a pipe, too, it is read while work goes on
}

void Console::print_json(const Json& object) const {
  if (json && workers.is_first())
    std::fputs((object.dump(2, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

int Console::fail_with(const Error& error) {
  end_progress();
  const std::string speaker = workers.is_first() ? "optiq" : "optiq, " + workers.name();
  std::fprintf(stderr, "%s: %s\n", speaker.c_str(), error.message.c_str());
  print_json({{"error", {{"code", code_name(error.code)}, {"message", error.message}}}});
  return static_cast<int>(error.code);
}

}  // namespace optiq::apps
