// A kernel by its name, with its arguments taken from a machine's memory: `take` gives what lies at an address, after `resolve` put real addresses in the
// place of the machine's. Included behind the kernels' source.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

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

template <class M> static std::function<void()> with_arguments(const std::string &kernel, M &memory, const u64 *arguments) {
    if (kernel == "apply") {
        return with_apply(memory, arguments);
    } else if (kernel == "encode_f32_f32") {
        return with_encode<float, float>(memory, arguments, encode_f32_f32);
    } else if (kernel == "encode_f32_bf16") {
        return with_encode<float, bf16>(memory, arguments, encode_f32_bf16);
    } else if (kernel == "encode_bf16_f32") {
        return with_encode<bf16, float>(memory, arguments, encode_bf16_f32);
    } else if (kernel == "encode_bf16_bf16") {
        return with_encode<bf16, bf16>(memory, arguments, encode_bf16_bf16);
    }
    throw std::runtime_error("there is no kernel " + kernel);
}
