// sensitivity.json: what each module's quantization costs at each format, measured once, planned from many
// times.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/calibrate/mixture.h"
#include "optiq/io/safetensors.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/profile/model_facts.h"
#include "optiq/quant/encoder.h"
#include "optiq/quant/format.h"

namespace optiq::profile {

/// How a cost was estimated.
enum class Estimator {
  fisher,  ///< ½·mean of squared directional derivatives of sampled log-likelihoods; knows interactions
  kl,      ///< KL(reference ‖ model with this one module changed), measured
  mse,     ///< output error of the module from its inputs' Gram matrix
};
std::string_view estimator_name(Estimator estimator);
/// bad_input for a name that is none of them.
Result<Estimator> parse_estimator(std::string_view name);

struct Calibration {
  std::string source;  ///< "self", the file it came from, or what a mixture is called
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;  ///< of each sequence
  std::uint64_t seed = 0;
  std::int64_t label_draws = 0;  ///< fisher: label sets drawn for each sequence; 0 for the others
  std::vector<calibrate::Part> mixture = {};  ///< where several sources shared the sequences; else empty

  /// The sources: those of the mixture, or the one.
  [[nodiscard]] std::vector<calibrate::Part> parts() const;

  friend bool operator==(const Calibration&, const Calibration&) = default;
};

/// What the profile has seen of `wanted`: where its parts are the profile's, the profile's own choice of
/// windows; else `wanted` itself.
calibrate::Source seen_source(const Calibration& calibration, calibrate::Source wanted);

/// One module at one quantized format.
struct FormatCost {
  quant::Format format;       ///< never dense: leaving a module as it is costs 0 and is not listed
  double cost = 0;            ///< KL a token, in nats; finite, may be negative (kl is a noisy estimate)
  double standard_error = 0;  ///< of cost; ≥ 0
  /// fisher: ⟨∂ log p_s/∂W, ΔW⟩ of each sample s, all label draws of a sequence next to each other (so that
  /// the two halves share no sequence); else empty.
  std::vector<float> projections;
};

struct ModuleSensitivity {
  std::string name;  ///< without ".weight"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t layer = -1;  ///< block; -1 for embeddings and head
  std::vector<FormatCost> options;
};

/// What a packed KV cache may have: bits a value, in groups of kernels::cpu::kCacheGroup.
inline constexpr int kCacheBits[] = {3, 4, 5, 6, 8};

/// A block's keys or values in the KV cache. 16 bits cost 0 and are not listed.
struct CacheSensitivity {
  std::int64_t layer = 0;
  kernels::cpu::CachePart part = kernels::cpu::CachePart::keys;
  std::vector<FormatCost> options;  ///< of kCacheBits, rising; projections as a module's
};

struct Sensitivity {
  ModelFacts model;
  std::vector<io::TensorSpec> fixed;  ///< tensors that are no module's weight: norms, biases
  Estimator estimator = Estimator::fisher;
  quant::Encoder encoder = quant::Encoder::rtn;
  Calibration calibration;
  /// Rank correlation of the costs from one half of the samples with those from the other.
  double half_split_spearman = 0;
  /// ½ / tokens of a sequence. Predicted KL of an assignment = scale · mean_s (Σ_modules projection_s)².
  double projection_scale = 0;
  std::vector<ModuleSensitivity> modules;  ///< in the model's order
  /// Keys, then values of every block in order; empty where they were not measured.
  std::vector<CacheSensitivity> caches;

  /// Length of every option's projections; 0 where there are none.
  [[nodiscard]] std::size_t samples() const;
};

/// The rules of the format beyond types: positive sizes whose bytes fit in 63 bits, unique names and formats,
/// formats that divide the module's rows, finite costs, errors ≥ 0, projections for fisher only and all of
/// one length. bad_input naming `where`, the module and the option.
Status check_sensitivity(const Sensitivity& sensitivity, const std::string& where);

/// Reads and checks. bad_input names `where`, the module and the option.
Result<Sensitivity> sensitivity_from_json(const Json& json, const std::string& where);
Result<Sensitivity> read_sensitivity(const std::filesystem::path& path);

/// Checks, then replaces the file atomically. Costs read back as the same double, projections as the same
/// float.
Status write_sensitivity(const std::filesystem::path& path, const Sensitivity& sensitivity);
Json sensitivity_to_json(const Sensitivity& sensitivity);

}  // namespace optiq::profile
