#include "stage_record.h"

#include <cstring>

#include "cache_options.h"

namespace optiq::profile {
namespace {

template <class T>
void append(std::vector<std::byte>& bytes, std::span<const T> values) {
  const auto raw = std::as_bytes(values);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

/// The length of what `values` has of a module, and that.
void append_of(std::vector<std::byte>& bytes, const std::map<std::string, std::vector<float>>& values,
               const std::string& module) {
  const auto found = values.find(module);
  const std::uint64_t length = found == values.end() ? 0 : found->second.size();
  append(bytes, std::span(&length, 1));
  if (length > 0) append(bytes, std::span<const float>(found->second));
}

/// Where each subject's options begin in a sample.
std::vector<std::size_t> option_offsets(const std::vector<Subject>& subjects) {
  std::vector<std::size_t> offsets{0};
  for (const Subject& subject : subjects) offsets.push_back(offsets.back() + subject.formats.size());
  return offsets;
}

}  // namespace

Measured nothing_measured(std::size_t samples, std::size_t values) {
  return {std::vector(samples, std::vector<float>(values, 0.0f)), {}, {}};
}

std::vector<std::byte> to_bytes(const StageRecord& record, const std::vector<Subject>& subjects,
                                std::span<const std::size_t> own) {
  std::vector<std::byte> bytes;
  for (const std::size_t subject : own) {
    append_of(bytes, record.importance, subjects[subject].shape.name);
    append_of(bytes, record.weights, subjects[subject].shape.name);
  }
  append(bytes, std::span<const float>(record.values));
  return bytes;
}

StageRecord stage_record(std::span<const std::byte> bytes, const std::vector<Subject>& subjects,
                         std::span<const std::size_t> own) {
  StageRecord record;
  const auto floats = [&](std::uint64_t count) {
    std::vector<float> values(count);
    std::memcpy(values.data(), bytes.data(), count * sizeof(float));
    bytes = bytes.subspan(count * sizeof(float));
    return values;
  };
  const auto read_of = [&](std::map<std::string, std::vector<float>>& values, const std::string& module) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes = bytes.subspan(sizeof length);
    if (length > 0) values[module] = floats(length);
  };
  for (const std::size_t subject : own) {
    read_of(record.importance, subjects[subject].shape.name);
    read_of(record.weights, subjects[subject].shape.name);
  }
  record.values = floats(bytes.size() / sizeof(float));
  return record;
}

void add_stage(const StageRecord& record, const std::vector<Subject>& subjects,
               std::span<const std::size_t> own, Measured& measured) {
  for (const auto& [module, energies] : record.importance) measured.importance[module] = energies;
  for (const auto& [module, values] : record.weights) measured.weights[module] = values;
  const std::vector<std::size_t> offsets = option_offsets(subjects);
  std::size_t value = 0;
  for (const std::size_t subject : own) {
    for (std::size_t option = 0; option < subjects[subject].formats.size(); ++option) {
      for (auto& sample : measured.samples) sample[offsets[subject] + option] += record.values[value++];
    }
  }
  if (value == record.values.size()) return;
  const std::size_t caches = cache_offset(subjects, subjects[own.front()].shape.layer, CachePart::keys);
  for (std::size_t option = 0; option < kBlockCacheOptions; ++option) {
    for (auto& sample : measured.samples) sample[caches + option] = record.values[value++];
  }
}

std::vector<std::size_t> subjects_of_stage(const std::vector<Subject>& subjects, std::int64_t layer) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    if (subjects[i].shape.layer == layer) found.push_back(i);
  }
  return found;
}

}  // namespace optiq::profile
