#include "same_models.h"

#include "optiq/io/content_identity.h"

namespace optiq::evaluate {

Status require_same_models(const Workers& workers, const model::Model& model, const model::Model* reference,
                           const std::string& job) {
  OPTIQ_CHECK(workers.require_same(io::content_identity(model.checkpoint()),
                                   job + ": model " + model.checkpoint().folder().string()));
  return workers.require_same(reference != nullptr ? io::content_identity(reference->checkpoint()) : "",
                              job + ": the reference model");
}

}  // namespace optiq::evaluate
