#include "text.h"

#include <algorithm>
#include <array>

namespace optiq::evaluate {
namespace {

constexpr std::array<std::string_view, 29> kSpaces{
    "\t",           "\n",           "\v",           "\f",           "\r",
    "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
    "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
    "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
    "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
    "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

}  // namespace

std::size_t trailing_space(std::string_view text) {
  std::string_view rest = text;
  for (;;) {
    const auto space = std::ranges::find_if(kSpaces, [&](std::string_view s) { return rest.ends_with(s); });
    if (space == kSpaces.end()) return text.size() - rest.size();
    rest.remove_suffix(space->size());
  }
}

std::string_view strip(std::string_view text) {
  text.remove_suffix(trailing_space(text));
  for (;;) {
    const auto space = std::ranges::find_if(kSpaces, [&](std::string_view s) { return text.starts_with(s); });
    if (space == kSpaces.end()) return text;
    text.remove_prefix(space->size());
  }
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t found; (found = text.find(from)) != std::string_view::npos;) {
    result.append(text.substr(0, found)).append(to);
    text.remove_prefix(found + from.size());
  }
  return result.append(text);
}

}  // namespace optiq::evaluate
