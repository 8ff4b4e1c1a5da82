// What the verbs that change an encoded checkpoint in place share.
#pragma once

#include "optiq/calibrate/calibrate.h"
#include "optiq/model/model.h"
#include "optiq/tune/distill.h"
#include "optiq/tune/round.h"
#include "verbs.h"

namespace optiq::apps {

struct TuneArguments {
  std::string model, reference, calibration;
};
void add_tune_options(CLI::App* verb, TuneArguments& args);

/// What is tuned towards, and on which tokens.
struct TuneInputs {
  model::Model reference;
  calibrate::TokenBatch tokens;
};
Result<TuneInputs> tune_inputs(const TuneArguments& args);

/// "held-out KL 0.52000 -> 0.31000 ..." with a line break, for people.
std::string rounding_line(const tune::RoundResult& result);
std::string distillation_line(const tune::DistillResult& result);

}  // namespace optiq::apps
