// refine() with a log that goes on behind it.
#pragma once

#include "optiq/tune/refine.h"
#include "work_log.h"

namespace optiq::tune {

/// refine, with what the log has in place of work. Where the log goes on with what was made of the best plan
/// and that lies in `out`, it stays there.
Result<RefineResult> refine_with(WorkLog& log, const RefineJob& job, const RefineOptions& options,
                                 const Progress& progress);

/// The log of plans for this job; `behind` names all that follows them. bad_input where the job's activations
/// cannot be read.
Result<WorkLog> open_log(const RefineJob& job, const RefineOptions& options, std::string_view behind);
std::filesystem::path log_path(const std::filesystem::path& out);

}  // namespace optiq::tune
