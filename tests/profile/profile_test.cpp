// profile(): the files it leaves, its errors, and that a kill at any moment costs nothing but time.
#include "optiq/profile/profile.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "optiq/base/statistics.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::profile {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChildFolder = "OPTIQ_TEST_PROFILE_FOLDER";
constexpr const char* kChildStop = "OPTIQ_TEST_PROFILE_STOP";  ///< the stage before which it kills itself
constexpr std::int64_t kSequences = 10;

Options options_of(Estimator estimator) {
  return {.estimator = estimator, .formats = {{2, 32}, {4, 32}, {4, 64}}, .label_draws = 3};
}

/// Profiles folder/model into folder/NAME.
Result<Sensitivity> run(const fs::path& folder, const Options& options, const std::string& name = "out.json",
                        const Progress& progress = nullptr) {
  OPTIQ_TRY(const auto model, model::Model::open(folder / "model"));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(folder / "model"));
  const calibrate::Source source{.sequences = kSequences, .tokens = 12, .seed = 9};
  return profile(model, tokenizer, source, options, folder / name, progress);
}

class ProfileTest : public testing::Test {
 protected:
  ProfileTest() {
    test::open_model(test::resized(test::ModelFolder::golden("llama"), random_, test::kTinyVocabulary, 64),
                     folder_.path() / "model");
    test::copy_tokenizer("byte_bpe", folder_.path() / "model");
  }

  std::string content(const std::string& name) { return read_text_file(folder_.path() / name).value(); }

  /// Everything in the folder but the model.
  std::vector<std::string> files() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      if (!entry.is_directory()) names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  void expect_error(const Result<Sensitivity>& result, ErrorCode code, std::string_view part) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_TRUE(test::contains(result.error().message, part));
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
};

TEST_F(ProfileTest, WritesBothFilesAndRemovesTheJournal) {
  for (const Estimator estimator : {Estimator::fisher, Estimator::kl, Estimator::mse}) {
    SCOPED_TRACE(estimator_name(estimator));
    const Sensitivity result = run(folder_.path(), options_of(estimator)).value();
    EXPECT_EQ(files(), (std::vector<std::string>{"out.importance.safetensors", "out.json"}));
    EXPECT_EQ(sensitivity_to_json(read_sensitivity(folder_.path() / "out.json").value()),
              sensitivity_to_json(result));
    const Importance importance = read_importance(folder_.path() / "out.importance.safetensors").value();
    EXPECT_TRUE(importance.contains("lm_head"));
    EXPECT_EQ(result.modules.size(), 2u + 2 * 7);
    EXPECT_EQ(result.samples(), estimator == Estimator::fisher ? 3u * kSequences : 0);
    EXPECT_GT(result.half_split_spearman, 0.5);
    for (const ModuleSensitivity& module : result.modules) {
      const auto& coarse = module.options[0];
      const auto& fine = module.options[1];
      EXPECT_EQ(coarse.format, (quant::Format{2, 32}));
      EXPECT_GT(coarse.cost, fine.cost) << module.name;
    }
  }
}

/// Plans count by it what the cache takes.
TEST_F(ProfileTest, RecordsTheSlidingWindow) {
  test::open_model(
      test::resized(test::ModelFolder::golden("qwen2-window"), random_, test::kTinyVocabulary, 64),
      folder_.path() / "model");
  ASSERT_TRUE(run(folder_.path(), options_of(Estimator::mse)));
  const ModelFacts facts = read_sensitivity(folder_.path() / "out.json").value().model;
  EXPECT_EQ(facts.sliding_window, 5);
  EXPECT_EQ(facts.first_sliding_layer, 1);
}

TEST_F(ProfileTest, WeighsTokensForGptqAlone) {
  const auto weights_by = [&](quant::Encoder encoder) {
    Options options = options_of(Estimator::fisher);
    options.encoder = encoder;
    EXPECT_TRUE(run(folder_.path(), options));
    const fs::path file = importance_path(folder_.path() / "out.json");
    return read_token_weights(file, read_calibration_tokens(file).value()).value();
  };
  EXPECT_EQ(weights_by(quant::Encoder::gptq).size(), 4u * 2 + 1);
  EXPECT_TRUE(weights_by(quant::Encoder::range).empty());
}

TEST_F(ProfileTest, FisherCostsAreTheMeanSquareOfTheirProjections) {
  const Sensitivity result = run(folder_.path(), options_of(Estimator::fisher)).value();
  EXPECT_DOUBLE_EQ(result.projection_scale, 0.5 / 12);
  for (const ModuleSensitivity& module : result.modules) {
    for (const FormatCost& option : module.options) {
      std::vector<double> squares;
      for (const float c : option.projections)
        squares.push_back(0.5 / 12 * static_cast<double>(c) * static_cast<double>(c));
      const MeanError mean = mean_with_error(squares);
      EXPECT_NEAR(option.cost, mean.mean, 1e-12 * mean.mean);
      EXPECT_GE(option.standard_error, 0.9 * mean.standard_error);
    }
  }
}

TEST_F(ProfileTest, AQuantizedCheckpointIsBadInput) {
  auto content = test::ModelFolder::golden("llama");
  const std::string name = "model.layers.0.mlp.up_proj";
  const auto config = model::parse_config(content.config, "config.json").value();
  content.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  for (const auto& module : model::module_shapes(config)) {
    if (module.name != name) content.config["quantization"][module.name] = false;
  }
  const auto packed = test::mx::quantize(content.at(name + ".weight"), 32, 4);
  content.set(name + ".weight", packed[0]);
  content.set(name + ".scales", packed[1]);
  content.set(name + ".biases", packed[2]);
  test::open_model(content, folder_.path() / "model");
  expect_error(run(folder_.path(), {}), ErrorCode::bad_input, name);
  EXPECT_TRUE(files().empty());
}

TEST_F(ProfileTest, OptionsThatCannotBeAreRefusedBeforeAnyWork) {
  Options options = options_of(Estimator::fisher);
  options.label_draws = 0;
  expect_error(run(folder_.path(), options), ErrorCode::usage, "label draws");
  options.label_draws = 65;
  expect_error(run(folder_.path(), options), ErrorCode::usage, "label draws");
  options = options_of(Estimator::fisher);
  options.formats = {{4, 64}};  // rows of 32
  expect_error(run(folder_.path(), options), ErrorCode::bad_input, "model.embed_tokens");
  EXPECT_TRUE(files().empty());
}

TEST_F(ProfileTest, BadCalibrationLeavesNothingBehind) {
  const auto model = model::Model::open(folder_.path() / "model").value();
  const auto tokenizer = io::Tokenizer::open(folder_.path() / "model").value();
  const calibrate::Source missing{.parts = {calibrate::Part{(folder_.path() / "none.txt").string()}},
                                  .tokens = 12};
  expect_error(profile(model, tokenizer, missing, {}, folder_.path() / "out.json", nullptr),
               ErrorCode::bad_input, "none.txt");
  EXPECT_TRUE(files().empty());
}

TEST_F(ProfileTest, AFullDiskIsOutOfResourcesAndTheOldFileStays) {
  ASSERT_TRUE(run(folder_.path(), options_of(Estimator::fisher)));
  const auto size = content("out.json").size();
  test::write_text(folder_.path() / "out.json", "old");
  fs::remove(folder_.path() / "out.importance.safetensors");
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  for (const std::size_t limit : {std::size_t{10}, std::size_t{1500}, size - 1}) {
    SCOPED_TRACE(limit);
    const rlimit small{limit, old.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto result = run(folder_.path(), options_of(Estimator::fisher));
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::out_of_resources) << result.error().message;
    EXPECT_EQ(content("out.json"), "old");
    for (const std::string& name : files()) {
      EXPECT_TRUE(name == "out.json" || name == "out.json.journal" || name == "out.importance.safetensors")
          << name;
    }
  }
  EXPECT_TRUE(run(folder_.path(), options_of(Estimator::fisher)));  // the space is back
  EXPECT_EQ(content("out.json").size(), size);
}

/// What a child process runs; nothing where it is not one.
TEST(ProfileChild, DISABLED_Run) {
  const char* folder = std::getenv(kChildFolder);
  if (folder == nullptr) GTEST_SKIP() << kChildFolder << " is not set";
  const double stop = std::atof(std::getenv(kChildStop));
  const Progress progress = [stop](std::string_view what, double done, double) {
    if (what.starts_with("profiling") && done == stop) ::kill(::getpid(), SIGKILL);
  };
  ASSERT_TRUE(run(folder, options_of(Estimator::fisher), "out.json", progress));
}

/// A process of its own, since MLX's threads do not survive a fork: profiles the folder, kills itself before
/// stage `stop`, and is killed after `patience_us` microseconds in any case. Tells whether it finished.
bool profile_in_child(const fs::path& folder, std::int64_t stop, useconds_t patience_us) {
  const std::string stop_text = std::to_string(stop);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv(kChildFolder, folder.c_str(), 1);
    ::setenv(kChildStop, stop_text.c_str(), 1);
    ::execl("/proc/self/exe", "profile_test", "--gtest_filter=ProfileChild.DISABLED_Run",
            "--gtest_also_run_disabled_tests", "--gtest_brief=1", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  for (useconds_t waited = 0;; waited += 1000) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (waited == patience_us) ::kill(child, SIGKILL);
    ::usleep(1000);
  }
}

constexpr useconds_t kForever = 600u * 1000 * 1000;

TEST_F(ProfileTest, AKilledRunGoesOnWhereItWas) {
  ASSERT_TRUE(run(folder_.path(), options_of(Estimator::fisher), "whole.json"));
  EXPECT_FALSE(profile_in_child(folder_.path(), 1, kForever));  // the head is done
  EXPECT_EQ(files(),
            (std::vector<std::string>{"out.json.journal", "whole.importance.safetensors", "whole.json"}));
  EXPECT_FALSE(profile_in_child(folder_.path(), 3, kForever));

  double first = -1;
  bool sampled = false;
  const Progress progress = [&](std::string_view what, double done, double) {
    if (what.starts_with("profiling") && first < 0) first = done;
    sampled |= what.starts_with("sampling");
  };
  ASSERT_TRUE(run(folder_.path(), options_of(Estimator::fisher), "out.json", progress));
  EXPECT_EQ(first, 3);
  EXPECT_FALSE(sampled);
  EXPECT_EQ(content("out.json"), content("whole.json"));
  EXPECT_EQ(content("out.importance.safetensors"), content("whole.importance.safetensors"));
  EXPECT_FALSE(fs::exists(folder_.path() / "out.json.journal"));
}

TEST_F(ProfileTest, KillsAtRandomMomentsChangeNothing) {
  ASSERT_TRUE(run(folder_.path(), options_of(Estimator::fisher), "whole.json"));
  bool finished = false;
  for (int kills = 0; kills < 8 && !finished; ++kills) {
    const auto patience = static_cast<useconds_t>(1000 * (1 + random_.below(400)));
    finished = profile_in_child(folder_.path(), -1, patience);
    if (fs::exists(folder_.path() / "out.json")) {
      EXPECT_EQ(content("out.json"), content("whole.json"));
    }
  }
  if (!finished) {
    ASSERT_TRUE(profile_in_child(folder_.path(), -1, kForever));
  }
  EXPECT_EQ(content("out.json"), content("whole.json"));
  EXPECT_EQ(files(), (std::vector<std::string>{"out.importance.safetensors", "out.json",
                                               "whole.importance.safetensors", "whole.json"}));
}

TEST_F(ProfileTest, OtherWorkIsNotContinued) {
  const Options options = options_of(Estimator::fisher);
  EXPECT_FALSE(profile_in_child(folder_.path(), 2, kForever));
  double first = -1;
  const Progress progress = [&](std::string_view what, double done, double) {
    if (what.starts_with("profiling") && first < 0) first = done;
  };
  Options other = options;
  other.label_draws = 2;
  ASSERT_TRUE(run(folder_.path(), other, "out.json", progress));
  EXPECT_EQ(first, 0);

  EXPECT_FALSE(profile_in_child(folder_.path(), 2, kForever));
  const fs::path tokenizer = folder_.path() / "model" / "tokenizer_config.json";
  test::write_text(tokenizer, R"({"bos_token": "<|im_start|>"})");
  first = -1;
  ASSERT_TRUE(run(folder_.path(), options, "out.json", progress));
  EXPECT_EQ(first, 0);
}

}  // namespace
}  // namespace optiq::profile
