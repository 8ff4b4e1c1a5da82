#include "optiq/base/units.h"
#include "optiq/model/model.h"
#include "optiq/quant/format.h"
#include "verbs.h"

namespace optiq::apps {
namespace {

/// Bytes of all tensors of a module, and the module as --json shows it.
Json module_json(const model::Model& model, const model::ModuleShape& module) {
  const quant::Format format = model.format(module.name);
  std::uint64_t bytes = 0;
  for (const char* part : {".weight", ".scales", ".biases"}) {
    if (const auto* tensor = model.checkpoint().find(module.name + part)) bytes += tensor->bytes.size();
  }
  return {{"name", module.name}, {"out_features", module.out_features}, {"in_features", module.in_features},
          {"bits", format.bits}, {"group_size", format.group_size},     {"bytes", bytes}};
}

}  // namespace

void add_info(VerbTable& verbs) {
  auto folder = std::make_shared<std::string>();
  CLI::App* verb = verbs.add("info", "Describe a checkpoint: size, bits, modules");
  verb->add_option("model", *folder, "Model folder")->required();
  verbs.on_chosen(verb, [folder](Console& console) -> Status {
    OPTIQ_TRY(const auto model, model::Model::open(*folder));
    const std::uint64_t bytes = model.checkpoint().file_bytes();
    const std::int64_t parameters = model::parameter_count(model);
    const double bits_per_weight = static_cast<double>(bytes) * 8 / static_cast<double>(parameters);
    Json modules = Json::array();
    std::map<quant::Format, int> formats;
    for (const auto& module : model.modules()) {
      modules.push_back(module_json(model, module));
      ++formats[model.format(module.name)];
    }
    console.print(fmt::format(
        "{}\n  family           {}\n  parameters       {}\n  weight files     {}\n  bits per weight  "
        "{:.3f}\n",
        *folder, model.config().family->model_type, parameters, format_bytes(bytes), bits_per_weight));
    for (const auto& [format, count] : formats) {
      console.print(fmt::format("  {:<16} {} modules\n", quant::to_string(format), count));
    }
    for (const auto& name : model.unused_tensors())
      console.print(fmt::format("  unused tensor    {}\n", name));
    console.print_json({{"model", *folder},
                        {"family", model.config().family->model_type},
                        {"bytes", bytes},
                        {"parameters", parameters},
                        {"bits_per_weight", bits_per_weight},
                        {"unused_tensors", model.unused_tensors()},
                        {"modules", std::move(modules)}});
    return {};
  });
}

}  // namespace optiq::apps
