#include "optiq/tune/carry_out.h"

#include "describe.h"
#include "optiq/profile/importance.h"
#include "refine_with.h"

namespace optiq::tune {
namespace {

std::string describe(const CarryOutOptions& options) {
  return (options.round ? describe(*options.round) : "no rounding") + ", " +
         (options.distill ? describe(*options.distill) : "no distillation");
}

/// One stage that changes the checkpoint: what the log has of it, or else done now and noted.
template <class T>
struct Stage {
  const char* name;
  std::function<Result<T>()> run;
  Json (*to_json)(const T&);
  Result<T> (*from_json)(const Json&, const std::string& where);
};

template <class T>
Result<T> do_stage(const Stage<T>& stage, WorkLog& log, const std::filesystem::path& out) {
  Json record{{"stage", stage.name}};
  const std::string where = log.path().string();
  OPTIQ_TRY(const auto known, log.next(record));
  if (known) return stage.from_json(*known, where);
  OPTIQ_TRY(T result, stage.run());
  record[WorkLog::kContent] = hex(content_of(out));
  record.update(stage.to_json(result));
  if (stage.from_json(record, where)) OPTIQ_CHECK(log.append(record));  // a divergence may be no number
  return result;
}

Result<CarriedOut> carry_out_with(WorkLog& log, const RefineJob& job, const CarryOutOptions& options,
                                  const Progress& progress) {
  CarriedOut done;
  OPTIQ_TRY(done.refined, refine_with(log, job, options.refine, progress));
  OPTIQ_CHECK(log.drop_behind(content_of(job.out)));
  if (!options.round && !options.distill) return done;
  OPTIQ_TRY(const auto tokens, profile::read_calibration_tokens(job.activations));
  if (options.round) {
    const auto run = [&] { return learn_rounding(job.out, job.reference, tokens, *options.round, progress); };
    OPTIQ_TRY(done.rounded,
              do_stage<RoundResult>({"round", run, round_to_json, round_from_json}, log, job.out));
  }
  if (options.distill) {
    const auto run = [&] { return distill(job.out, job.reference, tokens, *options.distill, progress); };
    OPTIQ_TRY(done.distilled,
              do_stage<DistillResult>({"distill", run, distill_to_json, distill_from_json}, log, job.out));
  }
  return done;
}

}  // namespace

Result<CarriedOut> carry_out(const RefineJob& job, const CarryOutOptions& options, const Progress& progress) {
  OPTIQ_TRY(WorkLog log, open_log(job, options.refine, describe(options)));
  auto done = carry_out_with(log, job, options, progress);
  if (!done && log.is_empty()) OPTIQ_CHECK(log.remove());
  return done;
}

Status check_stages(const CarryOutOptions& options, std::int64_t sequences) {
  if (options.round) OPTIQ_CHECK(check_sequences("round", sequences, options.round->held_out_sequences));
  if (options.distill)
    OPTIQ_CHECK(check_sequences("distill", sequences, options.distill->held_out_sequences));
  return {};
}

Status forget_work(const std::filesystem::path& out) {
  std::error_code error;
  std::filesystem::remove(log_path(out), error);
  if (!error) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot remove: {}", log_path(out).string(), error.message());
}

}  // namespace optiq::tune
