// What --json says of measured quality.
#pragma once

#include "optiq/base/json.h"
#include "optiq/evaluate/evaluate.h"

namespace optiq::apps {

/// ppl, ppl_stderr, tokens, context, windows, and with a reference kl_mean, kl_stderr, kl_median, kl_p99,
/// kl_p999, kl_max, top1_agreement, top1_agreement_stderr.
Json quality_json(const evaluate::Quality& quality);

}  // namespace optiq::apps
