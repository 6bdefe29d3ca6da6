// Runs CUDA C++ on the CPU for tests: blocks one after the other, a block's threads as coroutines that change at barriers.
//
// Covered: one-dimensional launches, static shared memory, __syncthreads, the rounding intrinsics. A barrier that not all threads reach
// together is an error. Shared memory starts as NaN. Between two barriers the threads run in ascending or descending order: where a
// barrier is missing, the results differ from the definition under one order or the other.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <ucontext.h>
#include <vector>

#define __device__ static
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() host::barrier(__LINE__)
#define threadIdx host::running->index
#define blockIdx host::block_index

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int __ffs(int bits) { return __builtin_ffs(bits); }
static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Set by the linker around all static shared arrays.
extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace host {

enum class Order { Ascending, Descending };

struct Index {
    unsigned x;
};

struct Thread {
    Index index{};
    ucontext_t context{};
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool done = false;
    // Of the barrier at which it waits.
    int line = 0;
};

inline Index block_index;
inline Thread *running;
inline ucontext_t scheduler;
inline std::function<void()> kernel;

inline void barrier(int line) {
    running->line = line;
    swapcontext(&running->context, &scheduler);
}

inline void thread_main() {
    kernel();
    running->done = true;
}

inline void prepare(Thread &thread, unsigned index) {
    thread.index.x = index;
    thread.done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, thread_main, 0);
}

// Lets every thread run to its next barrier or its end; false once all have ended.
inline bool advance(std::vector<Thread> &threads, Order order) {
    for (size_t i = 0; i < threads.size(); i++) {
        running = &threads[order == Order::Ascending ? i : threads.size() - 1 - i];
        swapcontext(&scheduler, &running->context);
    }
    for (const Thread &thread : threads) {
        if (thread.done != threads[0].done || (!thread.done && thread.line != threads[0].line)) {
            throw std::runtime_error("not all threads reach the barrier in line " + std::to_string(thread.done ? threads[0].line : thread.line));
        }
    }
    return !threads[0].done;
}

inline void launch(unsigned blocks, unsigned threads_per_block, Order order, std::function<void()> body) {
    kernel = std::move(body);
    std::vector<Thread> threads(threads_per_block);
    for (block_index.x = 0; block_index.x < blocks; block_index.x++) {
        memset(__start_shared_memory, 0xFF, __stop_shared_memory - __start_shared_memory);
        for (unsigned i = 0; i < threads_per_block; i++) {
            prepare(threads[i], i);
        }
        while (advance(threads, order)) {
        }
    }
}

} // namespace host
