#include "optiq/io/gguf_import.h"

#include "gguf_model.h"
#include "gguf_weights.h"
#include "optiq/io/checkpoint.h"
#include "optiq/io/gguf_tokenizer.h"

namespace optiq::io {
namespace {

Status write_weights(const GgufFile& file, const GgufImportPlan& plan, const std::filesystem::path& folder,
                     const Progress& progress) {
  std::vector<TensorSpec> specs;
  for (const GgufImportedTensor& tensor : plan.tensors) specs.push_back(tensor.target);
  OPTIQ_TRY(CheckpointWriter writer, CheckpointWriter::create(folder, layout_shards(specs)));
  std::uint64_t parameters = 0;
  double done = 0;
  for (const GgufImportedTensor& tensor : plan.tensors) {
    report_progress(progress, "importing", done++, static_cast<double>(plan.tensors.size()));
    OPTIQ_TRY(const std::vector<std::byte> bytes, convert_gguf_tensor(tensor, file.where()));
    OPTIQ_CHECK(writer.write(tensor.target.name, bytes));
    parameters += bytes.size() / dtype_bytes(tensor.target.dtype);
  }
  report_progress(progress, "importing", done, done);
  return writer.finish(parameters);
}

Status write_json(const std::filesystem::path& path, const Json& json) {
  return write_file_atomically(path, json.dump(2) + "\n");
}

}  // namespace

Result<GgufImportPlan> plan_gguf_import(const GgufFile& file, DType dtype) {
  OPTIQ_TRY(const GgufModel model, read_gguf_model(file));
  GgufImportPlan plan;
  OPTIQ_TRY(plan.config, make_gguf_config(file, model, dtype));
  OPTIQ_TRY(plan.generation_config, make_gguf_generation_config(file, model));
  OPTIQ_TRY(plan.tensors, map_gguf_tensors(file, model, dtype));
  return plan;
}

Status import_gguf(const std::filesystem::path& gguf, const std::filesystem::path& out,
                   const GgufImportOptions& options) {
  if (!is_float_dtype(options.dtype)) {
    return fail(ErrorCode::usage, "import of {}: expected dtype F32, F16 or BF16, got {}", gguf.string(),
                dtype_name(options.dtype));
  }
  OPTIQ_TRY(const GgufFile file, GgufFile::open(gguf));
  OPTIQ_TRY(const GgufImportPlan plan, plan_gguf_import(file, options.dtype));
  OPTIQ_TRY(const GgufTokenizerMetadata metadata, read_gguf_tokenizer(file.metadata()));
  OPTIQ_TRY(const GgufTokenizerFiles tokenizer, rebuild_gguf_tokenizer(metadata, file.where()));
  OPTIQ_TRY(StagedDirectory staged, StagedDirectory::create(out, "config.json"));
  OPTIQ_CHECK(write_weights(file, plan, staged.path(), options.progress));
  OPTIQ_CHECK(write_json(staged.path() / "config.json", plan.config));
  OPTIQ_CHECK(write_json(staged.path() / "generation_config.json", plan.generation_config));
  OPTIQ_CHECK(write_json(staged.path() / "tokenizer.json", tokenizer.tokenizer));
  OPTIQ_CHECK(write_json(staged.path() / "tokenizer_config.json", tokenizer.config));
  return staged.commit();
}

}  // namespace optiq::io
