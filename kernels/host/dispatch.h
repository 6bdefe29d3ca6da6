// A kernel by its name, with its arguments taken from a machine's memory: `take` gives what lies at an address, after `resolve` put real addresses in the
// place of the machine's. Included behind the kernels' source.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

// Threads of a kernel's blocks.
static unsigned threads_of(const std::string &kernel) { return kernel.rfind("encode", 0) == 0 ? ENCODE_THREADS : THREADS; }

static float as_float(u64 bits) { return __uint_as_float((unsigned)bits); }

template <class M> static std::function<void()> with_apply(M &memory, const u64 *arguments) {
    Step *steps = memory.template take<Step>(arguments[0], [&](Step &step) { memory.resolve(step.theta), memory.resolve(step.shadow); });
    const unsigned *owner = memory.template take<unsigned>(arguments[1]);
    Source *sources = memory.template take<Source>(arguments[2], [&](Source &source) { memory.resolve(source.section); });
    const unsigned payloads = arguments[3];
    const float lr = as_float(arguments[4]), over_all = as_float(arguments[5]), *tables = memory.template take<float>(arguments[6]);
    unsigned *fault = memory.template take<unsigned>(arguments[7]);
    return [=] { apply(steps, owner, sources, payloads, lr, over_all, tables, fault); };
}

template <class T, class E, class M, class F> static std::function<void()> with_encode(M &memory, const u64 *arguments, F kernel) {
    auto *jobs = memory.template take<Job<T, E>>(arguments[0], [&](Job<T, E> &job) {
        memory.resolve(job.before), memory.resolve(job.after), memory.resolve(job.feedback), memory.resolve(job.next_feedback), memory.resolve(job.section);
    });
    const unsigned *owner = memory.template take<unsigned>(arguments[1]);
    const float beta = as_float(arguments[2]), *tables = memory.template take<float>(arguments[3]);
    unsigned *fault = memory.template take<unsigned>(arguments[4]);
    return [=] { kernel(jobs, owner, beta, tables, fault); };
}

template <class T, class M, class F> static std::function<void()> with_cross_entropy(M &memory, const u64 *arguments, F kernel) {
    T *logits = memory.template take<T>(arguments[0]);
    const long long *targets = memory.template take<long long>(arguments[1]);
    float *losses = memory.template take<float>(arguments[2]);
    const unsigned vocabulary = arguments[3];
    return [=] { kernel(logits, targets, losses, vocabulary); };
}

template <class T, class M, class F> static std::function<void()> with_swiglu(M &memory, const u64 *arguments, F kernel) {
    const T *gate_up = memory.template take<T>(arguments[0]);
    T *to = memory.template take<T>(arguments[1]);
    const unsigned rows = arguments[2], width = arguments[3];
    return [=] { kernel(gate_up, to, rows, width); };
}

template <class T, class M, class F> static std::function<void()> with_swiglu_backward(M &memory, const u64 *arguments, F kernel) {
    const T *gate_up = memory.template take<T>(arguments[0]), *gradient = memory.template take<T>(arguments[1]);
    T *to = memory.template take<T>(arguments[2]);
    const unsigned rows = arguments[3], width = arguments[4];
    return [=] { kernel(gate_up, gradient, to, rows, width); };
}

template <class T, class M, class F> static std::function<void()> with_rotary(M &memory, const u64 *arguments, F kernel) {
    const T *from = memory.template take<T>(arguments[0]);
    T *to = memory.template take<T>(arguments[1]);
    const float *cosines = memory.template take<float>(arguments[2]), *sines = memory.template take<float>(arguments[3]);
    const unsigned rows = arguments[4], length = arguments[5], heads = arguments[6], rotated = arguments[7], width = arguments[8];
    const float direction = as_float(arguments[9]);
    return [=] { kernel(from, to, cosines, sines, rows, length, heads, rotated, width, direction); };
}

template <class M> static std::function<void()> with_arguments(const std::string &kernel, M &memory, const u64 *arguments) {
    if (kernel == "apply") {
        return with_apply(memory, arguments);
    }
#define WITH_ENCODE(SUFFIX, T, E)                                                                                                                  \
    if (kernel == "encode_" #SUFFIX) {                                                                                                           \
        return with_encode<T, E>(memory, arguments, encode_##SUFFIX);                                                                            \
    } else if (kernel == "encode_any_" #SUFFIX) {                                                                                                \
        return with_encode<T, E>(memory, arguments, encode_any_##SUFFIX);                                                                        \
    }
    WITH_ENCODE(f32_f32, float, float)
    WITH_ENCODE(f32_bf16, float, bf16)
    WITH_ENCODE(bf16_f32, bf16, float)
    WITH_ENCODE(bf16_bf16, bf16, bf16)
#define TRAINING_OF(SUFFIX, T)                                                                                                                   \
    if (kernel == "cross_entropy_" #SUFFIX) {                                                                                                    \
        return with_cross_entropy<T>(memory, arguments, cross_entropy_##SUFFIX);                                                                 \
    } else if (kernel == "swiglu_" #SUFFIX) {                                                                                                    \
        return with_swiglu<T>(memory, arguments, swiglu_##SUFFIX);                                                                               \
    } else if (kernel == "swiglu_backward_" #SUFFIX) {                                                                                           \
        return with_swiglu_backward<T>(memory, arguments, swiglu_backward_##SUFFIX);                                                             \
    } else if (kernel == "rotary_" #SUFFIX) {                                                                                                    \
        return with_rotary<T>(memory, arguments, rotary_##SUFFIX);                                                                               \
    }
    TRAINING_OF(f32, float)
    TRAINING_OF(bf16, bf16)
    throw std::runtime_error("there is no kernel " + kernel);
}
