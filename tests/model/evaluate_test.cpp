#include <gtest/gtest.h>
#include <mlx/primitives.h>

#include <new>
#include <stdexcept>

#include "optiq/model/model.h"
#include "support/contains.h"

namespace optiq::model {
namespace {

/// An operation that fails when it is evaluated, as `fail` says.
class Failing : public mx::UnaryPrimitive {
 public:
  explicit Failing(std::function<void()> fail)
      : mx::UnaryPrimitive(mx::default_stream(mx::Device::cpu)), fail_(std::move(fail)) {}
  void eval_cpu(const std::vector<mx::array>&, mx::array&) override { fail_(); }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { fail_(); }
  const char* name() const override { return "Failing"; }

 private:
  std::function<void()> fail_;
};

Status evaluate_failing(std::function<void()> fail) {
  return evaluate({mx::array({1}, mx::float32, std::make_shared<Failing>(std::move(fail)), {})});
}

TEST(Evaluate, ComputesItsArrays) {
  const mx::array sum = mx::ones({2, 3}) + mx::ones({2, 3});
  ASSERT_TRUE(evaluate({sum}));
  EXPECT_TRUE(sum.is_available());
}

TEST(Evaluate, LackOfMemoryIsOutOfResources) {
  EXPECT_EQ(evaluate_failing([] { throw std::bad_alloc(); }).error().code, ErrorCode::out_of_resources);
  const auto mlx = evaluate_failing([] { throw std::runtime_error("[malloc] Unable to allocate 8 bytes."); });
  EXPECT_EQ(mlx.error().code, ErrorCode::out_of_resources);
  EXPECT_TRUE(test::contains(mlx.error().message, "Unable to allocate 8 bytes"));
}

TEST(Evaluate, OtherExceptionsAreInternal) {
  const auto other = evaluate_failing([] { throw std::invalid_argument("rope: x: expected 4 axes"); });
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::internal);
  EXPECT_TRUE(test::contains(other.error().message, "rope: x: expected 4 axes"));
}

}  // namespace
}  // namespace optiq::model
