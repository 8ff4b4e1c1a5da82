#include <unordered_map>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/base/json.h"
#include "optiq/base/text.h"

namespace optiq {
namespace {

constexpr std::size_t kDeepestNesting = 128;

/// Builds the tree from the parser's events. Unlike nlohmann's own builder it looks for a key's earlier value
/// by hash, so that an object of n keys costs n and not n² (an index of a large model has 100,000).
class TreeBuilder {
 public:
  explicit TreeBuilder(DuplicateKeys duplicate_keys) : duplicate_keys_(duplicate_keys) {}

  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] Json take() { return std::move(root_); }

  bool null() { return put(nullptr) != nullptr; }
  bool boolean(bool value) { return put(value) != nullptr; }
  bool number_integer(std::int64_t value) { return put(value) != nullptr; }
  bool number_unsigned(std::uint64_t value) { return put(value) != nullptr; }
  bool number_float(double value, const std::string& /*text*/) { return put(value) != nullptr; }
  bool string(std::string& value) { return put(std::move(value)) != nullptr; }
  bool binary(Json::binary_t& value) { return put(Json::binary(std::move(value))) != nullptr; }
  bool start_object(std::size_t /*size*/) { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Level& level = levels_.back();
    Members& members = level.container->get_ref<Json::object_t&>();
    const auto [slot, is_new] = level.positions.try_emplace(name, members.size());
    if (!is_new && duplicate_keys_ == DuplicateKeys::refused) {
      problem_ = fmt::format("the key \"{}\" appears twice in one object", name);
      return false;
    }
    if (is_new) members.emplace_back(name, nullptr);
    member_ = &members[slot->second].second;
    return true;
  }

  bool parse_error(std::size_t /*byte*/, const std::string& /*token*/, const Json::exception& error) {
    problem_ = error.what();
    return false;
  }

 private:
  using Members = std::vector<std::pair<const std::string, Json>>;
  struct Level {
    Json* container;
    std::unordered_map<std::string, std::size_t> positions;  ///< Where in an object each key stands.
  };

  /// Puts a value where the parser stands. The pointer is good until its container gets another value.
  Json* put(Json value) {
    Json* place = &root_;
    if (!levels_.empty() && levels_.back().container->is_array()) {
      place = &levels_.back().container->emplace_back(nullptr);
    } else if (!levels_.empty()) {
      place = member_;
    }
    *place = std::move(value);
    return place;
  }

  bool open(Json empty) {
    if (levels_.size() == kDeepestNesting) {
      problem_ = fmt::format("nested deeper than {}", kDeepestNesting);
      return false;
    }
    levels_.push_back({put(std::move(empty)), {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  DuplicateKeys duplicate_keys_;
  Json root_;
  std::vector<Level> levels_;
  Json* member_ = nullptr;  ///< The value of the key read last.
  std::string problem_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where, DuplicateKeys duplicate_keys) {
  // nlohmann's lexer takes a NUL for the end of the text; JSON allows none anywhere.
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos)
    return fail(ErrorCode::bad_input, "{}: not valid JSON: NUL at byte {}", where, nul);
  TreeBuilder builder(duplicate_keys);
  if (!Json::sax_parse(text, &builder))
    return fail(ErrorCode::bad_input, "{}: not valid JSON: {}", where, printable(builder.problem(), 400));
  return builder.take();
}

Result<Json> read_json_file(const std::filesystem::path& path) {
  OPTIQ_TRY(const std::string text, read_text_file(path, 1ull << 30));
  return parse_json(text, path.string());
}

}  // namespace optiq
