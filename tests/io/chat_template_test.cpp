#include <gtest/gtest.h>

#include <ctime>

#include "optiq/io/tokenizer.h"
#include "support/contains.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;
using test::contains;

const Json kHello = Json::parse(R"([{"role": "user", "content": "hello"}])");

class ChatTemplates : public testing::Test {
 protected:
  void SetUp() override {
    fs::copy_file(test::tokenizer_goldens() / "byte_bpe" / "tokenizer.json", path() / "tokenizer.json");
  }
  [[nodiscard]] const fs::path& path() const { return folder_.path(); }
  [[nodiscard]] Tokenizer with_config(const Json& config) const {
    test::write_text(path() / "tokenizer_config.json", config.dump());
    return Tokenizer::open(path()).value();
  }
  [[nodiscard]] Tokenizer with_template(const std::string& source) const {
    return with_config({{"chat_template", source}});
  }
  [[nodiscard]] std::string render(const std::string& source) const {
    const auto text = with_template(source).apply_chat_template(kHello, false);
    EXPECT_TRUE(text) << text.error().message;
    return text.value_or("");
  }
  [[nodiscard]] std::string error(const std::string& source) const {
    const auto text = with_template(source).apply_chat_template(kHello, false);
    EXPECT_FALSE(text) << *text;
    if (text) return "";
    EXPECT_EQ(text.error().code, ErrorCode::bad_input);
    return text.error().message;
  }

 private:
  test::TemporaryFolder folder_;
};

TEST_F(ChatTemplates, EqualTheGoldensOfTransformers) {
  const Json cases = test::tokenizer_golden("chat.json")["cases"];
  ASSERT_FALSE(cases.empty());
  for (const Json& golden : cases) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    Json config = golden["special_tokens"];
    config["chat_template"] = golden["template"];
    const auto text = with_config(config).apply_chat_template(
        golden["messages"], golden["add_generation_prompt"].get<bool>(), golden["variables"]);
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(*text, golden["rendered"].get<std::string>());
  }
}

TEST_F(ChatTemplates, SpecialTokensMayBeObjects) {
  const Tokenizer tokenizer =
      with_config({{"bos_token", {{"content", "<b>"}, {"lstrip", false}}},
                   {"eos_token", nullptr},
                   {"extra_special_tokens", {{"image_token", "<i>"}}},
                   {"chat_template", "{{ bos_token }}{{ eos_token }}{{ image_token }}"}});
  EXPECT_EQ(tokenizer.apply_chat_template(kHello, false).value(), "<b><i>");
}

TEST_F(ChatTemplates, OfAListDefaultCounts) {
  Json list = Json::array(
      {{{"name", "tool_use"}, {"template", "tools"}}, {{"name", "default"}, {"template", "plain"}}});
  EXPECT_EQ(with_config({{"chat_template", list}}).apply_chat_template(kHello, false).value(), "plain");
  list.erase(1);
  EXPECT_FALSE(with_config({{"chat_template", list}}).has_chat_template());
}

TEST_F(ChatTemplates, TheirOwnFileWins) {
  test::write_text(path() / "chat_template.jinja", "from the file");
  EXPECT_EQ(render("from the configuration"), "from the file");
}

TEST_F(ChatTemplates, AreMissingWithAnError) {
  const auto text = with_config(Json::object()).apply_chat_template(kHello, false);
  ASSERT_FALSE(text);
  EXPECT_TRUE(contains(text.error().message, "tokenizer.json: there is no chat template"));
}

TEST_F(ChatTemplates, OfAWrongTypeAreBadInput) {
  test::write_text(path() / "tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_TRUE(contains(Tokenizer::open(path()).error().message, "tokenizer_config.json: \"chat_template\""));
  test::write_text(path() / "tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_TRUE(contains(Tokenizer::open(path()).error().message, "chat_template[0]: \"template\""));
}

TEST_F(ChatTemplates, ErrorsNameTheFileAndTheLine) {
  EXPECT_TRUE(contains(error("ok\n{% if %}"), "tokenizer_config.json: "));
  EXPECT_TRUE(contains(error("ok\n{% if %}"), "chat template:2"));
  EXPECT_TRUE(contains(error("\n\n{{ raise_exception('roles must alternate') }}"), "roles must alternate"));
  EXPECT_TRUE(contains(error("\n\n{{ raise_exception('roles must alternate') }}"), "chat template:3"));
  EXPECT_TRUE(contains(error("{{ messages[0].nothing.more }}"), "chat template:1"));
  EXPECT_TRUE(contains(error("{{ strftime_now('%Q') }}"), "unknown directive"));
  EXPECT_TRUE(contains(error("{{ raise_exception | tojson }}"), "has no JSON form"));
}

TEST_F(ChatTemplates, ABrokenOneStillLeavesATokenizer) {
  const Tokenizer tokenizer = with_template("{% broken");
  EXPECT_TRUE(tokenizer.has_chat_template());
  EXPECT_TRUE(tokenizer.encode("hello", false));
}

TEST_F(ChatTemplates, HostileOnesEnd) {
  EXPECT_FALSE(
      error("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}").empty());
  EXPECT_FALSE(error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").empty());
  EXPECT_FALSE(error("{{ 'x' * 1000000000000 }}").empty());
  EXPECT_FALSE(error("{{" + std::string(100000, '(')).empty());
}

TEST_F(ChatTemplates, KnowTheDate) {
  const std::time_t before = std::time(nullptr);
  const std::string date = render("{{ strftime_now('%Y-%m-%d %d %b %Y') }}");
  const std::time_t after = std::time(nullptr);
  const auto spelled = [](std::time_t time) {
    std::tm local{};
    ::localtime_r(&time, &local);
    char text[64];
    std::strftime(text, sizeof text, "%Y-%m-%d %d %b %Y", &local);
    return std::string(text);
  };
  EXPECT_TRUE(date == spelled(before) || date == spelled(after)) << date;
}

TEST_F(ChatTemplates, MessagesAreChecked) {
  const Tokenizer tokenizer = with_template("{{ messages[0].content }}");
  EXPECT_EQ(tokenizer.apply_chat_template(Json::object(), false).error().message,
            "messages: expected an array, got object");
  EXPECT_EQ(tokenizer.apply_chat_template(Json::array({1}), false).error().message,
            "messages[0]: expected an object, got number");
  EXPECT_EQ(tokenizer.apply_chat_template(kHello, false, Json::array()).error().message,
            "template variables: expected an object, got array");
  const Json broken = Json::array({{{"role", "user"}, {"content", "\xff"}}});
  EXPECT_TRUE(contains(tokenizer.apply_chat_template(broken, false).error().message, "not valid UTF-8"));
}

}  // namespace
}  // namespace optiq::io
