#include "optiq/encode/encode.h"

#include "optiq/base/units.h"
#include "memory_options.h"
#include "verbs.h"

namespace optiq::apps {

void add_encode(VerbTable& verbs) {
  struct Arguments {
    std::string model, plan, out;
    MemoryArguments memory;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("encode", "Write the MLX checkpoint that a plan describes");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("plan", args->plan, "plan.json")->required();
  verb->add_option("out", args->out, "Folder to write")->required();
  add_memory_option(verb, args->memory);
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    encode::EncodeOptions options;
    OPTIQ_TRY(options.memory, memory_limit(args->memory, args->out));
    OPTIQ_TRY(const auto source, io::Checkpoint::open(args->model, args->memory.access()));
    OPTIQ_TRY(const auto plan, plan::read_plan(args->plan));
    const auto folder = std::filesystem::path(args->plan).parent_path();
    OPTIQ_TRY(const auto calibration,
              encode::read_calibration(plan.importance.empty() ? "" : folder / plan.importance, plan));
    console.print(fmt::format("{} of disk\n", format_bytes(encode::disk_needed(plan, options))));
    OPTIQ_CHECK(
        encode::encode_checkpoint(source, plan, calibration, args->out, options, console.progress()));
    console.end_progress();
    console.print(memory_line(options.memory));
    console.print(fmt::format("{}: {}, {:.3f} bits per weight\n", args->out, format_bytes(plan.bytes),
                              plan.bits_per_weight));
    console.print_json(
        {{"out", args->out}, {"bytes", plan.bytes}, {"bits_per_weight", plan.bits_per_weight}});
    return {};
  });
}

void add_verify(VerbTable& verbs) {
  auto folder = std::make_shared<std::string>();
  CLI::App* verb = verbs.add("verify", "Prove that a written checkpoint is what its plan says");
  verb->add_option("model", *folder, "Folder that optiq wrote")->required();
  verbs.on_chosen(verb, [folder](Console& console) -> Status {
    OPTIQ_TRY(const auto result, encode::verify_checkpoint(*folder));
    console.print(fmt::format("{}: {} modules and {} as planned\n", *folder, result.modules.size(),
                              format_bytes(result.file_bytes)));
    console.print_json({{"model", *folder},
                        {"verified", true},
                        {"modules", result.modules.size()},
                        {"bytes", result.file_bytes}});
    return {};
  });
}

}  // namespace optiq::apps
