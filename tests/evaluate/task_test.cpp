#include "optiq/evaluate/task.h"

#include <gtest/gtest.h>

#include "support/contains.h"
#include "support/reference_model.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq::evaluate {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kExamples =
    "question,choice0,choice1,choice2,choice3,answer\n"
    "One?,1,2,3,4,0\n\"Two, \"\"or\"\" "
    "more?\",a,b,c,d,1\nThree?,5,6,7,8,2\nFour?,i,j,k,l,D\nFive?,w,x,y,z,A\n";

class TaskTest : public testing::Test {
 protected:
  void write(const fs::path& name, std::string_view text) {
    fs::create_directories((folder_.path() / name).parent_path());
    test::write_text(folder_.path() / name, text);
  }
  void write_subject(const std::string& subject, int questions) {
    std::string text;
    for (int i = 0; i < questions; ++i) text += fmt::format(" {} {}? ,p,q,r,s,{}\n", subject, i, i % 4);
    write("mmlu/dev/" + subject + "_dev.csv", kExamples);
    write("mmlu/test/" + subject + "_test.csv", text);
  }
  Error refused(std::string_view name) { return load_task(name, folder_.path(), 0).error(); }

  test::TemporaryFolder folder_;
};

TEST_F(TaskTest, MmluIsAskedWithFiveExamplesOfTheSubject) {
  write_subject("us_history", 2);
  const Task task = load_task("mmlu", folder_.path(), 0).value();
  ASSERT_EQ(task.questions.size(), 2u);
  const Question& question = task.questions[1];
  EXPECT_EQ(question.context,
            "The following are multiple choice questions (with answers) about us history.\n\n"
            "One?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\n"
            "Two, \"or\" more?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
            "Three?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer: C\n\n"
            "Four?\nA. i\nB. j\nC. k\nD. l\nAnswer: D\n\n"
            "Five?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
            "us_history 1?\nA. p\nB. q\nC. r\nD. s\nAnswer:");
  EXPECT_EQ(question.choices, (std::vector<std::string>{" A", " B", " C", " D"}));
  EXPECT_EQ(question.gold, 1u);
  EXPECT_EQ(question.id, "us_history/1");
}

TEST_F(TaskTest, ALimitGivesEachSubjectItsShareAndKeepsIds) {
  write_subject("a", 10);
  write_subject("b", 30);
  std::vector<std::string> ids;
  const Task some = load_task("mmlu", folder_.path(), 4).value();
  for (const Question& question : some.questions) ids.push_back(question.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"a/0", "b/0", "b/10", "b/20"}));
  EXPECT_EQ(load_task("mmlu", folder_.path(), 41).value().questions.size(), 40u);
}

TEST_F(TaskTest, HellaswagIsCleanedOfWikiHowsMarks) {
  write("hellaswag/hellaswag_val_full.txt",
        " Sports: A [substep] man  [title] runs.\r\n2\r\nhe stops [x]\r\nhe \xc3\xa9\r\nc\r\n[title d\r\n");
  const Task task = load_task("hellaswag", folder_.path(), 0).value();
  ASSERT_EQ(task.questions.size(), 1u);
  const Question& question = task.questions.front();
  EXPECT_EQ(question.context, "Sports: A man . runs.");
  EXPECT_EQ(question.choices, (std::vector<std::string>{" he stops ", " he \xc3\xa9", " c", " [title d"}));
  EXPECT_EQ(question.lengths, (std::vector<std::size_t>{9, 4, 1, 8}));
  EXPECT_EQ(question.gold, 2u);
  EXPECT_TRUE(task.normalised);
}

TEST_F(TaskTest, MissingAndMalformedFilesAreNamed) {
  EXPECT_TRUE(test::contains(refused("mmlu").message, "mmlu/test"));
  EXPECT_TRUE(test::contains(refused("hellaswag").message, "hellaswag_val_full.txt"));
  EXPECT_EQ(refused("arc").code, ErrorCode::usage);
  write_subject("a", 1);
  write("mmlu/dev/a_dev.csv", "One?,1,2,3,4,0\n");
  EXPECT_TRUE(test::contains(refused("mmlu").message, "a_dev.csv: expected 5 examples"));
  write("hellaswag/hellaswag_val_full.txt.bz2", "not bzip2");
  EXPECT_EQ(refused("hellaswag").code, ErrorCode::bad_input);
  for (const char* text :
       {"q,1,2,3,4\n", "q,1,2,3,4,4\n", "\"q,1,2,3,4,0\n", "\"q\"x,1,2,3,4,0\n", "q,1,2,3,4,\n"})
    EXPECT_EQ(parse_mmlu(text, "here").error().code, ErrorCode::bad_input) << text;
  for (const char* text : {"", "c\n", "c\n4\na\nb\nc\nd\n", "c\n1\na\n\nc\nd\n", "\n1\na\nb\nc\nd\n"})
    EXPECT_EQ(parse_hellaswag(text, "here").error().code, ErrorCode::bad_input) << text;
}

TEST(TaskData, TheWholeOfBothTasksIsRead) {
  const auto data = test::evaluation_data();
  OPTIQ_SKIP_WITHOUT_DATA(data);
  EXPECT_EQ(load_task("mmlu", *data, 0).value().questions.size(), 14042u);
  EXPECT_EQ(load_task("hellaswag", *data, 0).value().questions.size(), 10042u);
}

}  // namespace
}  // namespace optiq::evaluate
