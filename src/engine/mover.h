// Moves weights from the file's mapping into huge pages, a little after each decoded token. Walking through a
// model touches every page of it for every token, and translating the addresses of 4 KiB pages then costs as
// much as reading a fifth of them.
#pragma once

#include <vector>

#include "layers.h"
#include "optiq/base/huge_pages.h"

namespace optiq::engine {

class Mover {
 public:
  /// Plans to move every matrix of `layers` that decoding reads as a whole. Nothing is planned where the
  /// system has no huge pages to ask for. Both must outlive the mover.
  Mover(const model::Model& model, Layers& layers);
  [[nodiscard]] bool is_done() const { return next_ == parts_.size(); }
  /// Copies the next bytes: so few that a token is not held up, so many that all is moved within some tens of
  /// tokens. Where a tensor is whole, its matrix points to the copy, and the mapping's pages are let go.
  void step();

 private:
  /// A tensor and the pointer to it.
  struct Part {
    const io::TensorView* tensor;
    const void** data;
  };
  void plan(const model::Model& model, Linear& linear);
  /// Copies up to `most` bytes of the next part; how many.
  std::size_t copy(std::size_t most);

  std::vector<Part> parts_;
  std::size_t next_ = 0;    ///< the part that is being copied
  std::size_t copied_ = 0;  ///< bytes of it
  std::size_t share_ = 0;   ///< bytes of a step
  HugePages pages_;
  std::byte* free_ = nullptr;  ///< where the next part goes
};

}  // namespace optiq::engine
