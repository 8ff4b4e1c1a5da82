#include "optiq/calibrate/calibrate.h"

#include <algorithm>
#include <numeric>

#include "documents.h"
#include "optiq/base/file.h"
#include "optiq/base/random.h"

namespace optiq::calibrate {
namespace {

constexpr std::int64_t kMostSequences = 1 << 20;
/// Ids of one batch: 1 GiB, and far more than any estimate needs.
constexpr std::int64_t kMostTokens = 1 << 28;
/// Windows are chosen among this many times what is asked for.
constexpr std::int64_t kParquetChoice = 16;

Status check_source(const Source& source, const model::ModelConfig& config) {
  if (source.sequences < 1 || source.sequences > kMostSequences) {
    return fail(ErrorCode::usage, "calibration: expected 1 to {} sequences, got {}", kMostSequences,
                source.sequences);
  }
  const std::int64_t longest = config.max_positions > 0 ? config.max_positions : 1 << 20;
  if (source.tokens < 2 || source.tokens > longest) {
    return fail(ErrorCode::usage, "calibration: expected 2 to {} tokens a sequence, got {}", longest,
                source.tokens);
  }
  if (source.skip < 0 || source.skip > kMostSequences)
    return fail(ErrorCode::usage, "calibration: expected to skip 0 to {} sequences, got {}", kMostSequences,
                source.skip);
  if (source.tokens > kMostTokens / source.sequences) {
    return fail(ErrorCode::usage, "calibration: expected at most {} tokens in all, got {} sequences of {}",
                kMostTokens, source.sequences, source.tokens);
  }
  return {};
}

/// What one part must give.
struct Share {
  std::int64_t sequences = 0;
  std::int64_t skip = 0;  ///< windows of the same choice that are left out
};

/// Cuts a token stream into windows and keeps a seeded choice of them, in the stream's order.
Result<TokenBatch> choose_windows(const Tokens& tokens, const std::string& name, const Source& source,
                                  Share share) {
  TokenBatch batch{0, std::min<std::int64_t>(source.tokens, static_cast<std::int64_t>(tokens.size())), {}};
  if (batch.tokens < 2) {
    return fail(ErrorCode::bad_input, "{}: expected calibration text of at least 2 tokens, got {}", name,
                tokens.size());
  }
  std::vector<std::int64_t> windows(tokens.size() / static_cast<std::size_t>(batch.tokens));
  std::iota(windows.begin(), windows.end(), 0);
  Random random(source.seed);
  shuffle(windows, random);
  const auto all = static_cast<std::int64_t>(windows.size());
  if (all <= share.skip) {
    return fail(ErrorCode::bad_input, "{}: expected more than {} windows of {} tokens, got {}", name,
                share.skip, batch.tokens, all);
  }
  windows.erase(windows.begin(), windows.begin() + share.skip);
  windows.resize(std::min(windows.size(), static_cast<std::size_t>(share.sequences)));
  std::sort(windows.begin(), windows.end());
  for (const std::int64_t window : windows) {
    const auto first = tokens.begin() + window * batch.tokens;
    batch.ids.insert(batch.ids.end(), first, first + batch.tokens);
  }
  batch.sequences = static_cast<std::int64_t>(windows.size());
  return batch;
}

Status check_vocabulary(const std::vector<std::int32_t>& ids, std::int64_t vocabulary,
                        const std::string& where) {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary) {
      return fail(ErrorCode::bad_input, "{}: the tokenizer gave token {}, but the model's vocabulary has {}",
                  where, id, vocabulary);
    }
  }
  return {};
}

Result<Tokens> tokenize(const std::string& name, const io::Tokenizer& tokenizer, const Source& source) {
  const std::filesystem::path file(name);
  if (file.extension() == ".jsonl") return tokenize_jsonl(file, tokenizer);
  if (file.extension() != ".parquet") return tokenize_file(file, tokenizer);
  // Enough for a choice: the whole of a data set would take hours. What is held out must be chosen from the
  // same tokens as what it is kept apart from.
  const std::int64_t sequences = source.skip > 0 ? source.skip : source.sequences;
  const std::int64_t enough = std::min(sequences * source.tokens, kMostTokens);
  return tokenize_parquet(file, tokenizer, static_cast<std::size_t>(kParquetChoice * enough));
}

Result<TokenBatch> load_part(const std::string& name, const Source& source, Share share,
                             const model::Model& model, const io::Tokenizer& tokenizer,
                             const Progress& progress) {
  if (name == "self") {
    const Source own{.sequences = share.sequences,
                     .tokens = source.tokens,
                     .seed = source.seed + static_cast<std::uint64_t>(share.skip)};
    return sample_from_model(own, model, tokenizer, progress);
  }
  OPTIQ_TRY(const Tokens tokens, tokenize(name, tokenizer, source));
  OPTIQ_CHECK(check_vocabulary(tokens, model.config().vocabulary, name));
  return choose_windows(tokens, name, source, share);
}

/// The rows of all parts, each in its own order.
TokenBatch interleave(const std::vector<TokenBatch>& batches, const std::vector<std::int64_t>& counts) {
  TokenBatch all{0, batches.front().tokens, {}};
  std::vector<std::int64_t> next(batches.size(), 0);
  for (const std::size_t part : interleaved_parts(counts)) {
    const auto row = batches[part].row(next[part]++);
    all.ids.insert(all.ids.end(), row.begin(), row.end());
    ++all.sequences;
  }
  return all;
}

}  // namespace

model::mx::array TokenBatch::array(std::int64_t index, std::int64_t count) const {
  return model::mx::array(row(index).data(), {static_cast<int>(count), static_cast<int>(tokens)},
                          model::mx::int32);
}

Result<std::vector<std::int32_t>> tokenize_file(const std::filesystem::path& file,
                                                const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const std::string text, read_text_file(file));
  if (text.empty()) return fail(ErrorCode::bad_input, "{}: the file is empty", file.string());
  auto tokens = tokenizer.encode(text, false);
  if (!tokens) return with_context(tokens.error(), file.string());
  return tokens;
}

Source held_out(const Source& source, std::int64_t sequences) {
  Source other = source;
  other.sequences = sequences;
  other.skip = source.sequences;
  return other;
}

Source held_out_of(const std::string& name, const Source& source, std::int64_t sequences) {
  Source other = source;
  other.parts = {Part{name}};
  other.sequences = sequences;
  other.skip = 0;
  const auto counts = share_out(source.parts, source.sequences);
  for (std::size_t i = 0; counts && i < source.parts.size(); ++i)
    if (source.parts[i].name == name) other.skip = (*counts)[i];
  return other;
}

Result<std::tuple<TokenBatch, TokenBatch>> split(const TokenBatch& batch) {
  if (batch.sequences < 2) {
    return fail(ErrorCode::bad_input,
                "held-out text: expected 2 windows of {} tokens beside those of calibration, got {}",
                batch.tokens, batch.sequences);
  }
  std::tuple halves{TokenBatch{0, batch.tokens, {}}, TokenBatch{0, batch.tokens, {}}};
  for (std::int64_t i = 0; i < batch.sequences; ++i) {
    TokenBatch& half = i % 2 == 0 ? std::get<0>(halves) : std::get<1>(halves);
    const auto row = batch.row(i);
    half.ids.insert(half.ids.end(), row.begin(), row.end());
    ++half.sequences;
  }
  return halves;
}

Result<TokenBatch> load(const Source& source, const model::Model& model, const io::Tokenizer& tokenizer,
                        const Progress& progress) {
  OPTIQ_CHECK(check_source(source, model.config()));
  OPTIQ_TRY(const auto counts, share_out(source.parts, source.sequences));
  std::vector<std::int64_t> skipped(counts.size(), 0);
  if (source.skip > 0) {
    OPTIQ_TRY(skipped, share_out(source.parts, source.skip));
  }
  std::vector<TokenBatch> batches;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::string& name = source.parts[i].name;
    OPTIQ_TRY(TokenBatch batch, load_part(name, source, {counts[i], skipped[i]}, model, tokenizer, progress));
    if (counts.size() == 1) return batch;
    if (batch.sequences < counts[i] || batch.tokens < source.tokens) {
      return fail(ErrorCode::bad_input,
                  "{}: expected {} sequences of {} tokens for the mixture, got {} of {}", name, counts[i],
                  source.tokens, batch.sequences, batch.tokens);
    }
    batches.push_back(std::move(batch));
  }
  return interleave(batches, counts);
}

}  // namespace optiq::calibrate
