// The kernels as a library of this CPU: addresses are this process's own.

#include "cuda_host.h"

#include "kernels.cu"

#include "dispatch.h"

struct Addresses {
    template <class T> void resolve(T *&) {}
    template <class T, class F> T *take(u64 address, F) { return (T *)address; }
    template <class T> T *take(u64 address) { return (T *)address; }
};

// Threads of a kernel's blocks.
extern "C" unsigned block_of(const char *kernel) { return threads_of(kernel); }

// Runs a kernel; null, or what went wrong. One call at a time.
extern "C" const char *run_kernel(const char *kernel, u64 blocks, const u64 *arguments) {
    static std::string wrong;
    try {
        Addresses addresses;
        host::launch(blocks, threads_of(kernel), host::Order::Ascending, with_arguments(kernel, addresses, arguments));
        return nullptr;
    } catch (const std::exception &error) {
        wrong = error.what();
        return wrong.c_str();
    }
}
