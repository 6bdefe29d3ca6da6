// Runs a kernel on the CPU. Arguments: the order of the threads, `ascending` or `descending`; the kernel. The machine's memory comes on standard input,
// buffer after buffer, each behind the u64 number of its bytes, and goes to standard output in the same way when the kernel has ended. The last buffer holds
// u64: the number of blocks, then the kernel's arguments.
//
// An address is the number of a buffer, counted from 1, times 2^48, plus an offset in it; zero is null.

#include "cuda_host.h"

#include "kernels.cu"

#include <cstdio>

using Buffer = std::vector<char>;

static bool read(Buffer &to) {
    u64 size;
    if (fread(&size, 1, sizeof size, stdin) != sizeof size) {
        return false;
    }
    to.resize(size);
    if (size > 0 && fread(to.data(), 1, size, stdin) != size) {
        throw std::runtime_error("the input is cut short");
    }
    return true;
}

struct Memory {
    std::vector<Buffer> buffers;

    // Puts the real address in the place of the machine's.
    template <class T> void resolve(T *&address) {
        const u64 place = (u64)address;
        address = place == 0 ? nullptr : (T *)(buffers.at((place >> 48) - 1).data() + (place & 0xFFFFFFFFFFFF));
    }

    // A buffer of structs.
    template <class T, class F> T *take(u64 place, F resolve_fields) {
        const Buffer &buffer = buffers.at((place >> 48) - 1);
        T *first = (T *)buffer.data();
        for (T *each = first; each < first + buffer.size() / sizeof(T); each++) {
            resolve_fields(*each);
        }
        return first;
    }

    template <class T> T *take(u64 place) {
        return take<T>(place, [](T &) {});
    }
};

static float as_float(u64 bits) { return __uint_as_float((unsigned)bits); }

static std::function<void()> with_apply(Memory &memory, const u64 *arguments) {
    Step *steps = memory.take<Step>(arguments[0], [&](Step &step) { memory.resolve(step.theta), memory.resolve(step.shadow); });
    const unsigned *owner = memory.take<unsigned>(arguments[1]);
    Source *sources = memory.take<Source>(arguments[2], [&](Source &source) { memory.resolve(source.section); });
    const unsigned payloads = arguments[3];
    const float lr = as_float(arguments[4]), over_all = as_float(arguments[5]), *tables = memory.take<float>(arguments[6]);
    unsigned *fault = memory.take<unsigned>(arguments[7]);
    return [=] { apply(steps, owner, sources, payloads, lr, over_all, tables, fault); };
}

template <class T, class E, class F> static std::function<void()> with_encode(Memory &memory, const u64 *arguments, F kernel) {
    auto *jobs = memory.take<Job<T, E>>(arguments[0], [&](Job<T, E> &job) {
        memory.resolve(job.before), memory.resolve(job.after), memory.resolve(job.feedback), memory.resolve(job.next_feedback), memory.resolve(job.section);
    });
    const unsigned *owner = memory.take<unsigned>(arguments[1]);
    const float beta = as_float(arguments[2]), *tables = memory.take<float>(arguments[3]);
    unsigned *fault = memory.take<unsigned>(arguments[4]);
    return [=] { kernel(jobs, owner, beta, tables, fault); };
}

static std::function<void()> with_arguments(const std::string &kernel, Memory &memory, const u64 *arguments) {
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

static void run(host::Order order, const std::string &kernel) {
    Memory memory;
    for (Buffer buffer; read(buffer);) {
        memory.buffers.push_back(buffer);
    }
    const Buffer words = memory.buffers.back();
    memory.buffers.pop_back();
    const u64 *arguments = (const u64 *)words.data();
    host::launch(arguments[0], THREADS, order, with_arguments(kernel, memory, arguments + 1));
    for (const Buffer &buffer : memory.buffers) {
        const u64 size = buffer.size();
        fwrite(&size, 1, sizeof size, stdout);
        if (size > 0) {
            fwrite(buffer.data(), 1, size, stdout);
        }
    }
}

int main(int count, char **arguments) {
    try {
        run(count > 1 && std::string(arguments[1]) == "descending" ? host::Order::Descending : host::Order::Ascending, count > 2 ? arguments[2] : "");
    } catch (const std::exception &error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
