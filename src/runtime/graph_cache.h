// What the graphs' backend holds of a sequence, in a file and back: engine/prompt_cache_file.h, "compute"
// "graphs", with the tensors of model/cache_content.h for each block.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/model/model.h"

namespace optiq::runtime {

/// A sequence between passes.
struct GraphSequence {
  const model::KvCache& cache;    ///< every block with a format
  std::span<const float> logits;  ///< behind the last token; empty where they are not known
  std::span<const std::int32_t> tokens;
};

/// As engine::write_prompt_cache.
Status write_graph_cache(const std::filesystem::path& path, const model::Model& model,
                         const GraphSequence& sequence);

/// As engine::read_prompt_cache. Replaces `cache`, whose blocks' formats the file must have, and `logits`.
Result<std::vector<std::int32_t>> read_graph_cache(const std::filesystem::path& path,
                                                   const model::Model& model, model::KvCache& cache,
                                                   std::vector<float>& logits);

}  // namespace optiq::runtime
