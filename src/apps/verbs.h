// One function a verb: adds its subcommand and options to the command line. When it is chosen, the action
// runs and its Status becomes the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "console.h"

namespace optiq::apps {

using Action = std::function<Status(Console&)>;

/// Adds a subcommand with the flags that every verb has. The caller binds its options and gives the action.
class VerbTable {
 public:
  VerbTable(CLI::App& app, Console& console) : app_(app), console_(console) {}

  CLI::App* add(const std::string& name, const std::string& description);
  void on_chosen(CLI::App* verb, Action action);
  /// The verb's work may be shared by several workers; others refuse to be more than one process.
  void share(CLI::App* verb) { shared_.push_back(verb); }
  /// Runs the chosen verb's action; the exit code.
  int run();

 private:
  Status start_workers(CLI::App* verb);

  CLI::App& app_;
  Console& console_;
  std::vector<std::pair<CLI::App*, Action>> actions_;
  std::vector<CLI::App*> shared_;
};

void add_import(VerbTable& verbs);
void add_info(VerbTable& verbs);
void add_profile(VerbTable& verbs);
void add_plan(VerbTable& verbs);
void add_fit(VerbTable& verbs);
void add_uniform(VerbTable& verbs);
void add_fold(VerbTable& verbs);
void add_encode(VerbTable& verbs);
void add_verify(VerbTable& verbs);
void add_quantize(VerbTable& verbs);
void add_compare(VerbTable& verbs);
void add_distill(VerbTable& verbs);
void add_round(VerbTable& verbs);
void add_eval(VerbTable& verbs);
void add_calibration_report(VerbTable& verbs);
void add_run(VerbTable& verbs);
void add_chat(VerbTable& verbs);
void add_bench(VerbTable& verbs);

}  // namespace optiq::apps
