// What the tch crate lacks: ATen's fused and foreach operations over lists of tensors. Device-generic, so that it links the CPU
// libraries alone and still reaches CUDA once libtorch_cuda is loaded. Every function returns null, or a message that stays
// valid until the same thread's next call; no exception crosses into Rust.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <string>
#include <vector>

namespace {

std::vector<at::Tensor> list(const at::Tensor *const *tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

template <typename Body> const char *guarded(Body body) noexcept {
  static thread_local std::string message;
  try {
    at::NoGradGuard no_grad;
    body();
    return nullptr;
  } catch (const std::exception &error) {
    message = error.what();
  } catch (...) {
    message = "an exception that is no std::exception";
  }
  return message.c_str();
}

}  // namespace

extern "C" {

struct AdamW {
  double lr, beta1, beta2, eps, weight_decay;
};

const char *model_fused_adamw(const at::Tensor *const *parameters, const at::Tensor *const *gradients, const at::Tensor *const *first,
                              const at::Tensor *const *second, size_t count, const at::Tensor *step, const at::Tensor *gradient_scale,
                              const AdamW *rule) {
  return guarded([&] {
    const std::vector<at::Tensor> steps(count, *step);
    at::_fused_adamw_(list(parameters, count), list(gradients, count), list(first, count), list(second, count), {}, steps, rule->lr,
                      rule->beta1, rule->beta2, rule->weight_decay, rule->eps, /*amsgrad=*/false, /*maximize=*/false, *gradient_scale);
  });
}

const char *model_foreach_add(const at::Tensor *const *sums, const at::Tensor *const *terms, size_t count) {
  return guarded([&] { at::_foreach_add_(list(sums, count), list(terms, count)); });
}

const char *model_global_norm(const at::Tensor *const *tensors, size_t count, double *norm) {
  return guarded([&] { *norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, count), 2))).item<double>(); });
}

}
