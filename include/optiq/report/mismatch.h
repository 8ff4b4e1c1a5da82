// The risk of calibrating on one kind of text and using the model on another, for people and as JSON.
#pragma once

#include <string>

#include "optiq/base/json.h"
#include "optiq/evaluate/mismatch.h"

namespace optiq::report {

/// Tables (measured KL where there is one, predicted KL, differences of plans and profiles), then a sentence
/// for every pair, and the worst of them. Ends in a newline.
std::string mismatch_text(const evaluate::Mismatch& mismatch);

/// docs/formats.md, "Machine interface", `calibration-report`.
Json mismatch_json(const evaluate::Mismatch& mismatch);

}  // namespace optiq::report
