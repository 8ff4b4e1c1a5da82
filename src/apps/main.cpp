#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string_view>

#include "verbs.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace optiq::apps {

CLI::App* VerbTable::add(const std::string& name, const std::string& description) {
  CLI::App* verb = app_.add_subcommand(name, description);
  verb->add_flag("--json", console_.json, "Print one JSON object and nothing else on standard output");
  verb->add_flag("--quiet", console_.quiet, "Show no progress");
  return verb;
}

void VerbTable::on_chosen(CLI::App* verb, Action action) {
  actions_.emplace_back(verb, std::move(action));
}

Status VerbTable::start_workers(CLI::App* verb) {
  OPTIQ_TRY(const std::int64_t workers, Workers::named_by_environment());
  if (workers > 1 && std::ranges::find(shared_, verb) == shared_.end())
    return fail(ErrorCode::usage,
                "{}: expected one process, got {} workers; profile and eval share their work",
                verb->get_name(), workers);
  OPTIQ_TRY(console_.workers, Workers::join());
  return {};
}

int VerbTable::run() {
  for (const auto& [verb, action] : actions_) {
    if (!verb->parsed()) continue;
    Status status = start_workers(verb);
    if (status) status = console_.workers.finish(action(console_));
    console_.end_progress();
    return status ? 0 : console_.fail_with(status.error());
  }
  return console_.fail_with({ErrorCode::usage, "expected a verb; see optiq --help"});
}

/// CLI11 stops before it sets flags: whether --json was given is looked up.
int fail_with_usage(const CLI::App& app, const CLI::ParseError& error, std::span<char*> arguments,
                    Console& console) {
  console.json = std::ranges::find(arguments, std::string_view("--json")) != arguments.end();
  std::string message = error.what();
  const auto word =
      std::ranges::find_if(arguments, [](std::string_view argument) { return !argument.starts_with("-"); });
  if (app.get_subcommands().empty() && word != arguments.end())
    message = fmt::format("\"{}\": expected a verb", *word);
  return console.fail_with({ErrorCode::usage, message + "; see optiq --help"});
}

/// What is still buffered must reach standard output too: a full disk shows only here.
int flushed(int code, Console& console) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  console.json = false;
  return console.fail_with({ErrorCode::out_of_resources, "standard output: cannot write all of it"});
}

/// MLX allocates and frees an array of megabytes for every operation: keep them instead of asking the kernel
/// for zeroed pages each time (clearing them took about a fifth of the samples of a profiled backward pass).
void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  ::mallopt(M_TOP_PAD, 64 << 20);
#endif
}

int main(int argc, char** argv) {
  keep_freed_memory();
  // MLX would call a C++ compiler at run time to fuse CPU operations.
  ::setenv("MLX_DISABLE_COMPILE", "1", 0);
  // A write over a file-size limit is then an error of that write instead of a kill.
  std::signal(SIGXFSZ, SIG_IGN);
  Console console;
  CLI::App app("optiq: mixed-precision quantization of language models for MLX, by measured sensitivity");
  app.set_version_flag("--version", OPTIQ_VERSION);
  app.require_subcommand(1);
  VerbTable verbs(app, console);
  for (const auto add : {add_quantize, add_fit, add_compare, add_profile, add_plan, add_uniform, add_fold,
                         add_encode, add_verify, add_round, add_distill, add_eval, add_calibration_report,
                         add_run, add_chat, add_bench, add_info, add_import}) {
    add(verbs);
  }
  try {
    app.parse(argc, argv);
    return flushed(verbs.run(), console);
  } catch (const CLI::ParseError& error) {
    const std::span arguments(argv + 1, static_cast<std::size_t>(std::max(argc - 1, 0)));
    if (error.get_exit_code() != 0) return fail_with_usage(app, error, arguments, console);
    return flushed(app.exit(error), console);
  } catch (const std::bad_alloc&) {
    return console.fail_with({ErrorCode::out_of_resources, "not enough memory"});
  } catch (const std::exception& error) {
    return console.fail_with({ErrorCode::internal, error.what()});
  }
}

}  // namespace optiq::apps

int main(int argc, char** argv) {
  return optiq::apps::main(argc, argv);
}
