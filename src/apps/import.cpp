#include "optiq/io/gguf_import.h"
#include "verbs.h"

namespace optiq::apps {

void add_import(VerbTable& verbs) {
  struct Arguments {
    std::string file, out, dtype = "bf16";
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("import", "Turn a GGUF file into a Hugging Face folder");
  verb->add_option("file", args->file, "GGUF file")->required();
  verb->add_option("out", args->out, "Folder to write")->required();
  verb->add_option("--dtype", args->dtype, "Of the weights written")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    const DType dtype = args->dtype == "f32" ? DType::f32 : args->dtype == "f16" ? DType::f16 : DType::bf16;
    OPTIQ_CHECK(io::import_gguf(args->file, args->out, {.dtype = dtype, .progress = console.progress()}));
    console.end_progress();
    console.print(fmt::format("Imported {} to {}\n", args->file, args->out));
    console.print_json({{"source", args->file}, {"out", args->out}, {"dtype", args->dtype}});
    return {};
  });
}

}  // namespace optiq::apps
