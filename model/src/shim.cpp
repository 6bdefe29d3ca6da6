// What the tch crate lacks, over ATen. Device-generic where it is not marked otherwise, so that it links the CPU libraries alone and
// still reaches CUDA once libtorch_cuda is loaded. Every function returns null, or a message that stays valid until the same
// thread's next call; no exception crosses into Rust.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <vector>

namespace at::native {
// Exported by libtorch_cpu, in no shipped header: result = alpha · a · b + beta · result through oneDNN, any strides, 2-D or batched.
TORCH_API void mkldnn_matmul(const Tensor &a, const Tensor &b, const Tensor &result, float beta, float alpha);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<at::Tensor> list(const at::Tensor *const *tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

template <typename Body> const char *guarded(Body body) noexcept {
  static thread_local std::string message;
  try {
    body();
    return nullptr;
  } catch (const std::exception &error) {
    message = error.what();
  } catch (...) {
    message = "an exception that is no std::exception";
  }
  return message.c_str();
}

// oneDNN's product refuses to run on processors without these, and at::matmul is as good as any there.
bool has_avx512() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
#else
  return false;
#endif
}

at::Tensor matrix_product(const at::Tensor &a, const at::Tensor &b) {
  if (!has_avx512()) return at::matmul(a, b);
  std::vector<int64_t> shape = a.sizes().vec();
  shape.back() = b.size(-1);
  at::Tensor result = at::empty(shape, a.options());
  at::native::mkldnn_matmul(a, b, result, 0.f, 1.f);
  return result;
}

// a · bᵀ over the last two dimensions. CPU and f32 only: at::mm goes to MKL there, which leaves AVX-512 unused on other vendors' processors.
struct Product : torch::autograd::Function<Product> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &a, const at::Tensor &b) {
    context->save_for_backward({a, b});
    return matrix_product(a, b.transpose(-2, -1));
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor gradient = gradients[0].contiguous();
    return {matrix_product(gradient, saved[1]), matrix_product(gradient.transpose(-2, -1), saved[0])};
  }
};

// Kernels of this project on contiguous tensors of one type, by a call back into Rust: null, or a message that stays valid until the same thread's next call.
struct Kernels {
  const void *object;
  const char *(*run)(const void *object, int which, bool is_bf16, void *const *tensors, const int64_t *sizes);
};

// As ffi/fused.rs numbers them.
enum Which { CROSS_ENTROPY, SWIGLU, SWIGLU_BACKWARD, ROTARY, ROTARY_BACKWARD };

void launch(int64_t kernels, Which which, const std::vector<at::Tensor> &tensors, const std::vector<int64_t> &sizes) {
  std::vector<void *> addresses;
  for (const at::Tensor &tensor : tensors) {
    TORCH_CHECK(tensor.is_contiguous(), "a kernel was given a tensor that is not contiguous");
    addresses.push_back(tensor.data_ptr());
  }
  const Kernels &called = *reinterpret_cast<const Kernels *>(kernels);
  const char *wrong = called.run(called.object, which, tensors[0].scalar_type() == at::kBFloat16, addresses.data(), sizes.data());
  if (wrong) throw std::runtime_error(wrong);
}

// [rows, gate and up] to [rows, width].
struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &gate_up, int64_t kernels) {
    const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    const at::Tensor result = at::empty({rows, width}, gate_up.options());
    launch(kernels, SWIGLU, {gate_up, result}, {rows, width});
    context->save_for_backward({gate_up});
    context->saved_data["kernels"] = kernels;
    return result;
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0], gradient = gradients[0].contiguous(), result = at::empty_like(gate_up);
    launch(context->saved_data["kernels"].toInt(), SWIGLU_BACKWARD, {gate_up, gradient, result}, {gradient.size(0), gradient.size(1)});
    return {result, at::Tensor()};
  }
};

// [rows, heads · width]; the first `rotated` heads of each row are turned.
struct Rotary : torch::autograd::Function<Rotary> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &from, const at::Tensor &cosines, const at::Tensor &sines, int64_t heads,
                            int64_t rotated, int64_t kernels) {
    const at::Tensor result = at::empty_like(from);
    launch(kernels, ROTARY, {from, result, cosines, sines}, {from.size(0), cosines.size(0), heads, rotated, from.size(1) / heads});
    context->save_for_backward({cosines, sines});
    context->saved_data["sizes"] = std::vector<int64_t>{heads, rotated, kernels};
    return result;
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const variable_list tables = context->get_saved_variables();
    const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
    const at::Tensor gradient = gradients[0].contiguous(), result = at::empty_like(gradient);
    launch(sizes[2], ROTARY_BACKWARD, {gradient, result, tables[0], tables[1]},
           {gradient.size(0), tables[0].size(0), sizes[0], sizes[1], gradient.size(1) / sizes[0]});
    return {result, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

const char *model_swiglu(const at::Tensor *gate_up, const Kernels *kernels, at::Tensor **result) {
  return guarded([&] { *result = new at::Tensor(SwiGlu::apply(*gate_up, reinterpret_cast<int64_t>(kernels))); });
}

const char *model_rotary(const at::Tensor *from, const at::Tensor *cosines, const at::Tensor *sines, int64_t heads, int64_t rotated,
                         const Kernels *kernels, at::Tensor **result) {
  return guarded([&] { *result = new at::Tensor(Rotary::apply(*from, *cosines, *sines, heads, rotated, reinterpret_cast<int64_t>(kernels))); });
}

// The logits [rows, vocabulary] become their gradients.
const char *model_cross_entropy(const at::Tensor *logits, const at::Tensor *targets, const Kernels *kernels, at::Tensor **losses) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    const at::Tensor result = at::empty({logits->size(0)}, logits->options().dtype(at::kFloat));
    launch(reinterpret_cast<int64_t>(kernels), CROSS_ENTROPY, {*logits, targets->contiguous(), result}, {logits->size(0), logits->size(1)});
    *losses = new at::Tensor(result);
  });
}

struct AdamW {
  double lr, beta1, beta2, eps, weight_decay;
};

const char *model_product(const at::Tensor *a, const at::Tensor *b, at::Tensor **result) {
  return guarded([&] { *result = new at::Tensor(Product::apply(*a, *b)); });
}

const char *model_fused_adamw(const at::Tensor *const *parameters, const at::Tensor *const *gradients, const at::Tensor *const *first,
                              const at::Tensor *const *second, size_t count, const at::Tensor *step, const at::Tensor *gradient_scale,
                              const AdamW *rule) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> steps(count, *step);
    at::_fused_adamw_(list(parameters, count), list(gradients, count), list(first, count), list(second, count), {}, steps, rule->lr,
                      rule->beta1, rule->beta2, rule->weight_decay, rule->eps, /*amsgrad=*/false, /*maximize=*/false, *gradient_scale);
  });
}

const char *model_foreach_add(const at::Tensor *const *sums, const at::Tensor *const *terms, size_t count) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    at::_foreach_add_(list(sums, count), list(terms, count));
  });
}

// Leaves one new tensor per input in `gradients`. `upstream` is null for a scalar output.
const char *model_gradients(const at::Tensor *output, const at::Tensor *upstream, const at::Tensor *const *inputs, size_t count,
                            at::Tensor **gradients) {
  return guarded([&] {
    const variable_list given = upstream ? variable_list{*upstream} : variable_list{};
    const variable_list found = torch::autograd::grad({*output}, list(inputs, count), given);
    for (size_t i = 0; i < count; ++i) gradients[i] = new at::Tensor(found[i]);
  });
}

// The norm is rounded to f32; its square, an f64 scalar, is exact.
const char *model_squared_norm(const at::Tensor *const *tensors, size_t count, at::Tensor **square) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    *square = new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, count), 2))).to(at::kDouble).square());
  });
}
}
