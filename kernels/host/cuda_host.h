// Runs CUDA C++ on the CPU for tests: blocks one after the other, a block's threads as coroutines that change at barriers and in warps' exchanges.
//
// Covered: one-dimensional launches, static shared memory, __syncthreads and its count, shuffles, ballots and sums of whole warps, atomics, the rounding
// intrinsics. A barrier that not all threads reach together, and an exchange that not all lanes do, are errors. Shared memory starts as NaN. Between two
// barriers of the block each warp runs alone, and between two exchanges each lane, in ascending or descending order: where a barrier is missing, the
// results differ from the definition under one order or the other.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <ucontext.h>
#include <vector>

// Pragmas of CUDA only.
#pragma GCC diagnostic ignored "-Wunknown-pragmas"

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() ((void)host::barrier(__LINE__, false))
#define __syncthreads_count(predicate) host::barrier(__LINE__, predicate)
#define __syncwarp() host::exchange(__LINE__, 0xFFFFFFFF, 0)
#define __shfl_xor_sync(lanes, value, distance) host::shuffle(__LINE__, lanes, value, host::lane() ^ (distance))
#define __shfl_up_sync(lanes, value, distance) host::shuffle(__LINE__, lanes, value, host::lane() < (distance) ? host::lane() : host::lane() - (distance))
#define __ballot_sync(lanes, predicate) host::ballot(__LINE__, lanes, predicate)
#define __reduce_add_sync(lanes, value) host::reduce(__LINE__, lanes, value, [](unsigned a, unsigned b) { return a + b; })
#define __reduce_min_sync(lanes, value) host::reduce(__LINE__, lanes, value, [](unsigned a, unsigned b) { return a < b ? a : b; })
#define __reduce_max_sync(lanes, value) host::reduce(__LINE__, lanes, value, [](unsigned a, unsigned b) { return a > b ? a : b; })
#define threadIdx host::running->index
#define blockIdx host::block_index

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

template <class T> T __ldcs(const T *from) { return *from; }
template <class T> void __stcs(T *to, T value) { *to = value; }

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int __ffs(int bits) { return __builtin_ffs(bits); }
static inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(bits); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return ((unsigned long long)high << 32 | low) >> shift % 32;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
// Two numbers rounded to the nearest bf16, ties to even, as PTX's instruction of this name.
static inline unsigned cvt_rn_bf16x2(float high, float low) {
    const auto round = [](float value) {
        const unsigned bits = __float_as_uint(value);
        return value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    };
    return round(high) << 16 | round(low);
}

// Only one thread runs at a time.
static inline unsigned atomicAdd(unsigned *at, unsigned value) {
    const unsigned old = *at;
    *at += value;
    return old;
}
static inline unsigned atomicOr(unsigned *at, unsigned value) {
    const unsigned old = *at;
    *at |= value;
    return old;
}
static inline unsigned atomicMin(unsigned *at, unsigned value) {
    const unsigned old = *at;
    *at = value < old ? value : old;
    return old;
}

// Set by the linker around all static shared arrays.
extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace host {

constexpr size_t LANES = 32;

enum class Order { Ascending, Descending };

// What a thread waits for.
enum class Wait { Nothing, Block, Warp };

struct Index {
    unsigned x;
};

// Where a coroutine goes on. The compiler's own jumps, unlike swapcontext, need no call of the system.
struct Place {
    void *words[5];
};

struct Thread {
    Index index{};
    ucontext_t context{};
    Place place{};
    bool started = false;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool done = false;
    Wait wait = Wait::Nothing;
    // Where it waits.
    int line = 0;
    // What it gives: a predicate to the block, a value to its warp; what the block gives it.
    unsigned long long given = 0, taken = 0;
};

inline Index block_index;
inline Thread *running;
inline Place back;
inline std::function<void()> kernel;
// What the lanes of each warp gave last.
inline std::vector<std::array<unsigned long long, LANES>> of_lanes;

inline unsigned lane() { return running->index.x % LANES; }

// Without the sanitizer's own work for functions that do not return: it takes a call of the system.
__attribute__((noinline, no_sanitize_address)) inline void jump(Place &to) { __builtin_longjmp(to.words, 1); }

// From a thread to the scheduler, and back when the thread is next.
__attribute__((noinline, no_sanitize_address)) inline void leave() {
    if (__builtin_setjmp(running->place.words) == 0) {
        jump(back);
    }
}

// From the scheduler to a thread, until that leaves.
__attribute__((noinline, no_sanitize_address)) inline void enter(Thread &thread) {
    if (__builtin_setjmp(back.words) == 0) {
        if (thread.started) {
            jump(thread.place);
        }
        thread.started = true;
        setcontext(&thread.context);
    }
}

inline void pause(Wait wait, int line, unsigned long long given) {
    running->wait = wait;
    running->line = line;
    running->given = given;
    leave();
}

// The number of threads whose predicate holds.
inline int barrier(int line, bool predicate) {
    pause(Wait::Block, line, predicate);
    return (int)running->taken;
}

// What all lanes of this warp give.
inline const std::array<unsigned long long, LANES> &exchange(int line, unsigned lanes, unsigned long long given) {
    if (lanes != 0xFFFFFFFF) {
        throw std::runtime_error("line " + std::to_string(line) + ": only whole warps exchange here");
    }
    pause(Wait::Warp, line, given);
    return of_lanes[running->index.x / LANES];
}

template <class T> T shuffle(int line, unsigned lanes, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(running->given));
    if (source >= LANES) {
        throw std::runtime_error("line " + std::to_string(line) + ": a warp has no lane " + std::to_string(source));
    }
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    std::memcpy(&value, &exchange(line, lanes, bits)[source], sizeof value);
    return value;
}

inline unsigned ballot(int line, unsigned lanes, bool predicate) {
    unsigned ones = 0, lane = 0;
    for (const unsigned long long given : exchange(line, lanes, predicate)) {
        ones |= (unsigned)given << lane++;
    }
    return ones;
}

template <class F> unsigned reduce(int line, unsigned lanes, unsigned value, F combine) {
    const auto &given = exchange(line, lanes, value);
    return std::accumulate(given.begin() + 1, given.end(), (unsigned)given[0], combine);
}

inline void thread_main() {
    kernel();
    running->done = true;
    leave();
}

inline void prepare(Thread &thread, unsigned index) {
    thread.index.x = index;
    thread.done = thread.started = false;
    thread.wait = Wait::Nothing;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, thread_main, 0);
}

// Whether these threads all wait for the same, in the same line.
inline bool all_wait(const Thread *threads, size_t count, Wait wait) {
    for (size_t i = 0; i < count; i++) {
        if (threads[i].done || threads[i].wait != wait || threads[i].line != threads[0].line) {
            return false;
        }
    }
    return true;
}

// Lets the lanes of a warp run until all of them wait for the block or have ended, or one waits for lanes that do not come.
inline void run_warp(std::vector<Thread> &threads, size_t first, Order order) {
    Thread *warp = &threads[first];
    for (;;) {
        for (size_t i = 0; i < LANES; i++) {
            running = &warp[order == Order::Ascending ? i : LANES - 1 - i];
            if (!running->done && running->wait == Wait::Nothing) {
                enter(*running);
            }
        }
        if (!all_wait(warp, LANES, Wait::Warp)) {
            return;
        }
        for (size_t i = 0; i < LANES; i++) {
            of_lanes[first / LANES][i] = warp[i].given;
            warp[i].wait = Wait::Nothing;
        }
    }
}

inline void release(std::vector<Thread> &threads) {
    unsigned long long count = 0;
    for (const Thread &thread : threads) {
        count += thread.given;
    }
    for (Thread &thread : threads) {
        thread.taken = count;
        thread.wait = Wait::Nothing;
    }
}

// Lets every warp run to the next barrier of the block; false once all have ended.
inline bool advance(std::vector<Thread> &threads, Order order) {
    for (size_t i = 0; i < threads.size(); i += LANES) {
        run_warp(threads, order == Order::Ascending ? i : threads.size() - LANES - i, order);
    }
    if (all_wait(threads.data(), threads.size(), Wait::Block)) {
        release(threads);
        return true;
    }
    for (const Thread &thread : threads) {
        if (!thread.done) {
            throw std::runtime_error("not all threads reach what thread " + std::to_string(thread.index.x) + " waits for in line " + std::to_string(thread.line));
        }
    }
    return false;
}

inline void launch(unsigned blocks, unsigned threads_per_block, Order order, std::function<void()> body) {
    kernel = std::move(body);
    std::vector<Thread> threads(threads_per_block);
    of_lanes.resize(threads_per_block / LANES);
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
