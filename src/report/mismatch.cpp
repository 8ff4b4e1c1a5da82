#include "optiq/report/mismatch.h"

#include <cmath>
#include <functional>

#include "optiq/report/table.h"

namespace optiq::report {
namespace {

using evaluate::Mismatch;
using Cell = std::function<std::string(std::size_t, std::size_t)>;

std::string matrix_table(const Mismatch& mismatch, const std::string& title, const Cell& cell) {
  std::vector<Column> columns{{title}};
  for (const std::string& name : mismatch.names) columns.push_back({name, Align::right});
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < mismatch.names.size(); ++i) {
    auto& row = rows.emplace_back(1, mismatch.names[i]);
    for (std::size_t j = 0; j < mismatch.names.size(); ++j) row.push_back(cell(i, j));
  }
  return format_table(columns, rows) + "\n";
}

std::string kl_cell(const MeanError& kl) {
  return fmt::format("{:.5f} ± {:.5f}", kl.mean, kl.standard_error);
}

/// Farther from 0 than chance explains: two standard errors.
bool is_clear(const MeanError& excess) {
  return std::fabs(excess.mean) > 2 * excess.standard_error;
}

std::string pair_sentence(const Mismatch& mismatch, std::size_t by, std::size_t on) {
  const MeanError excess = evaluate::excess(mismatch, by, on);
  const bool measured = !mismatch.measured.empty();
  const std::string error = measured ? fmt::format(" ± {:.1f}", 100 * excess.standard_error) : "";
  return fmt::format("calibrating on {} {} {:.1f}{} % {} KL on {} than calibrating on {} itself{}\n",
                     mismatch.names[by], measured ? "costs" : "is predicted to cost",
                     100 * std::fabs(excess.mean), error, excess.mean < 0 ? "less" : "more",
                     mismatch.names[on], mismatch.names[on],
                     measured && !is_clear(excess) ? " (no clear difference)" : "");
}

/// Calls `visit` for every pair of different sets.
template <class Visit>
void for_each_pair(const Mismatch& mismatch, Visit visit) {
  for (std::size_t i = 0; i < mismatch.names.size(); ++i) {
    for (std::size_t j = 0; j < mismatch.names.size(); ++j)
      if (i != j) visit(i, j);
  }
}

/// For a text whose own plan another set's beats: that cannot be the text's doing.
std::string noise_sentence(const Mismatch& mismatch, std::size_t on) {
  for (std::size_t by = 0; by < mismatch.names.size(); ++by) {
    const MeanError excess = evaluate::excess(mismatch, by, on);
    if (by == on || mismatch.measured.empty() || excess.mean >= 0 || !is_clear(excess)) continue;
    return fmt::format("{}'s own plan is not the best on {}: its profile is noisy; more --sequences help\n",
                       mismatch.names[on], mismatch.names[on]);
  }
  return "";
}

std::string sentences(const Mismatch& mismatch) {
  std::string text;
  std::size_t worst_by = 0, worst_on = 1;
  for_each_pair(mismatch, [&](std::size_t by, std::size_t on) {
    text += pair_sentence(mismatch, by, on);
    const double worst = evaluate::excess(mismatch, worst_by, worst_on).mean;
    if (evaluate::excess(mismatch, by, on).mean <= worst) return;
    worst_by = by;
    worst_on = on;
  });
  text += "at worst: " + pair_sentence(mismatch, worst_by, worst_on);
  for (std::size_t on = 0; on < mismatch.names.size(); ++on) text += noise_sentence(mismatch, on);
  return text;
}

Json kl_json(const MeanError& kl) {
  return {{"mean", kl.mean}, {"stderr", kl.standard_error}};
}

}  // namespace

std::string mismatch_text(const Mismatch& mismatch) {
  std::string text;
  if (!mismatch.measured.empty()) {
    text += matrix_table(mismatch, "KL measured: calibrated on \\ text",
                         [&](std::size_t i, std::size_t j) { return kl_cell(mismatch.measured[i][j].kl); });
  }
  text += matrix_table(mismatch, "KL predicted: calibrated on \\ profile",
                       [&](std::size_t i, std::size_t j) { return kl_cell(mismatch.predicted[i][j]); });
  text += matrix_table(mismatch, "modules (bytes) of another format", [&](std::size_t i, std::size_t j) {
    const plan::Difference& difference = mismatch.differences[i][j];
    return fmt::format("{:.1f} % ({:.1f} %)", 100 * difference.modules, 100 * difference.bytes);
  });
  text += matrix_table(mismatch, "rank correlation of costs", [&](std::size_t i, std::size_t j) {
    return fmt::format("{:.4f}", mismatch.spearman[i][j]);
  });
  return text + sentences(mismatch);
}

Json mismatch_json(const Mismatch& mismatch) {
  Json json{{"sets", Json::array()}, {"pairs", Json::array()}};
  for (std::size_t i = 0; i < mismatch.names.size(); ++i) {
    const plan::Plan& plan = mismatch.plans[i];
    Json set{{"name", mismatch.names[i]},
             {"bytes", plan.bytes},
             {"bits_per_weight", plan.bits_per_weight},
             {"predicted_kl", kl_json(mismatch.predicted[i][i])}};
    if (!mismatch.measured.empty()) set["kl"] = kl_json(mismatch.measured[i][i].kl);
    json["sets"].push_back(std::move(set));
  }
  for_each_pair(mismatch, [&](std::size_t by, std::size_t on) {
    Json pair{{"calibrated_on", mismatch.names[by]},
              {"text", mismatch.names[on]},
              {"predicted_kl", kl_json(mismatch.predicted[by][on])},
              {"excess", kl_json(evaluate::excess(mismatch, by, on))},
              {"modules_differing", mismatch.differences[by][on].modules},
              {"bytes_differing", mismatch.differences[by][on].bytes},
              {"spearman", mismatch.spearman[by][on]}};
    if (!mismatch.measured.empty()) pair["kl"] = kl_json(mismatch.measured[by][on].kl);
    json["pairs"].push_back(std::move(pair));
  });
  return json;
}

}  // namespace optiq::report
