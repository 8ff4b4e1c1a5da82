#include "work.h"

#include "optiq/base/journal.h"
#include "optiq/base/threads.h"

namespace optiq::tune {
namespace {

template <class T>
std::uint64_t hashed(const T& values, std::uint64_t hash = kEmptyFingerprint) {
  return fingerprint(std::as_bytes(std::span(values)), hash);
}

}  // namespace

std::filesystem::path hidden_beside(const std::filesystem::path& out, std::string_view suffix) {
  std::filesystem::path clean = std::filesystem::absolute(out).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  return clean.parent_path() / fmt::format(".{}.{}", clean.filename().string(), suffix);
}

std::uint64_t content_fingerprint(const io::Checkpoint& checkpoint, const TensorBytes& replaced) {
  std::vector<std::pair<std::string, io::TensorView>> tensors(checkpoint.tensors().begin(),
                                                              checkpoint.tensors().end());
  std::vector<std::uint64_t> hashes(tensors.size());
  parallel_for(tensors.size(), 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const auto& [name, view] = tensors[i];
      const auto other = replaced.find(name);
      hashes[i] = fingerprint(other == replaced.end() ? view.bytes : other->second, hashed(name + '\n'));
      view.file.release(view.bytes);
    }
  });
  return hashed(hashes, hashed(checkpoint.config().dump()));
}

std::string work_identity(std::string_view work, const model::Model& reference,
                          const calibrate::TokenBatch& batch) {
  return fmt::format("optiq {} {}\n{}\n{:016x}\n{} {} {:016x}\n", OPTIQ_VERSION, kernels::cpu_isa(), work,
                     content_fingerprint(reference.checkpoint()), batch.sequences, batch.tokens,
                     hashed(batch.ids));
}

Status check_most_bits(std::string_view work, int bits) {
  if (bits >= 1 && bits <= 8) return {};
  return fail(ErrorCode::usage, "{}: expected modules of at most 1 to 8 bits, got {}", work, bits);
}

Status check_sequences(std::string_view work, std::int64_t sequences, std::int64_t held_out_sequences) {
  if (sequences > held_out_sequences) return {};
  return fail(ErrorCode::bad_input, "{}: expected more than {} calibration sequences, got {}", work,
              held_out_sequences, sequences);
}

Status check_fit(std::string_view work, const model::Model& student, const model::Model& reference,
                 const calibrate::TokenBatch& batch, std::int64_t held_out_sequences) {
  OPTIQ_CHECK(check_sequences(work, batch.sequences, held_out_sequences));
  const auto& mine = student.config();
  const auto& theirs = reference.config();
  if (mine.vocabulary == theirs.vocabulary && mine.layers == theirs.layers && mine.hidden == theirs.hidden)
    return {};
  return fail(ErrorCode::bad_input,
              "{}: expected a vocabulary of {}, {} blocks and a width of {} as the reference has, got {}, {} "
              "and {}",
              student.checkpoint().folder().string(), theirs.vocabulary, theirs.layers, theirs.hidden,
              mine.vocabulary, mine.layers, mine.hidden);
}

}  // namespace optiq::tune
