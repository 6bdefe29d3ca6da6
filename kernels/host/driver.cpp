// A CUDA driver without a device: what this crate calls of one, as strict as a driver may be. What is not allowed ends the process and says why.
//
// Work is done when somebody waits for it, and reads the host's memory only then. The device's memory is reached by that work alone; page-locked memory
// by the host only while no work is under way; freed memory never again. A thread has the context that it made current, or none. A kernel gets the
// parameters that its image says it has, and runs under the host shim.

#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <vector>

typedef unsigned long long u64;
extern "C" unsigned block_of(const char *kernel);
extern "C" const char *run_kernel(const char *kernel, u64 blocks, const u64 *arguments);

enum Result { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
enum Attribute { MAJOR = 75, MINOR = 76, MEMORY_POOLS = 115 };

constexpr int DEVICES = 2, ARCH = 90;
constexpr u64 MEMORY = 1 << 30, PAGE = 4096, ALIGNMENT = 256, ARENA = 0x100000000000, ARENA_END = ARENA + (1ull << 40);

struct Context {
    int owners;
    std::deque<std::function<void()>> queue;
};

// Kernels by name, with the sizes of their parameters.
struct Module {
    Context *context;
    std::map<std::string, std::vector<unsigned>> kernels;
};
typedef std::pair<const std::string, std::vector<unsigned>> Kernel;

struct Block {
    u64 bytes;
    Context *context;
    bool is_pinned;
};

static std::recursive_mutex lock;
static Context contexts[DEVICES];
static thread_local Context *current;
// By address: none is ever used twice, so that what is gone stays so.
static std::map<u64, Block> blocks;
static u64 next_block = ARENA;
static long fails_in;

[[noreturn]] static void refuse(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("the driver refuses ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    abort();
}

static void on_fault(int, siginfo_t *info, void *) {
    const u64 at = (u64)info->si_addr;
    if (at >= ARENA && at < ARENA_END) {
        refuse("access to %llx: it is freed, beyond a block, or the device's", at);
    }
    signal(SIGSEGV, SIG_DFL);
}

static Context &context_for(const char *call) {
    if (!current || current->owners == 0) {
        refuse("%s in a thread without a context", call);
    }
    return *current;
}

// Refuses bytes that are not one block's, of this thread's context.
static void check(u64 address, u64 bytes, const char *call) {
    auto next = blocks.upper_bound(address);
    const Block *block = next == blocks.begin() ? nullptr : &std::prev(next)->second;
    if (!block || address + bytes > std::prev(next)->first + block->bytes || block->context != &context_for(call)) {
        refuse("%s: %llx has no %llu bytes, or they are another device's", call, address, bytes);
    }
}

static void let(u64 address, u64 bytes, bool is_open) {
    const u64 first = address / PAGE * PAGE;
    mprotect((void *)first, address + bytes - first, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

// Lets everybody reach memory of the device, and page-locked memory, or nobody.
static void let_all(const Context &context, bool on_device, bool pinned) {
    for (auto &[address, block] : blocks) {
        if (block.context == &context) {
            let(address, block.bytes, block.is_pinned ? pinned : on_device);
        }
    }
}

static void start(Context &context, std::function<void()> work) {
    context.queue.push_back(std::move(work));
    let_all(context, false, false);
}

static void wait(Context &context) {
    let_all(context, true, true);
    for (; !context.queue.empty(); context.queue.pop_front()) {
        context.queue.front()();
    }
    let_all(context, false, true);
}

static Result allocate(u64 *address, u64 bytes, bool is_pinned, const char *call) {
    Context &context = context_for(call);
    if (bytes == 0) {
        refuse("%s of no bytes", call);
    } else if (fails_in > 0 && --fails_in == 0) {
        return OUT_OF_MEMORY;
    }
    // it ends where a page does, and nobody has the next one
    const u64 room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (room + PAGE - 1) / PAGE * PAGE;
    *address = next_block + pages - room;
    next_block += pages + PAGE;
    let(*address, bytes, true);
    memset((void *)*address, 0xFF, bytes);
    let(*address, bytes, is_pinned);
    blocks[*address] = {bytes, &context, is_pinned};
    return SUCCESS;
}

static void give_back(u64 address, bool is_pinned, const char *call) {
    if (!blocks.count(address) || blocks[address].is_pinned != is_pinned) {
        refuse("%s of %llx", call, address);
    }
    let(address, blocks[address].bytes, false);
    blocks.erase(address);
}

static void copy(Context &context, u64 to, u64 from, u64 bytes, const char *call) {
    for (u64 end : {to, from}) {
        if (end >= ARENA && end < ARENA_END) {
            check(end, bytes, call);
        }
    }
    start(context, [=] { memcpy((void *)to, (void *)from, bytes); });
}

// A function of the driver that succeeds; one that needs a context.
#define GIVES(NAME, PARAMETERS, ...)                                                                                                             \
    extern "C" Result NAME PARAMETERS {                                                                                                          \
        std::lock_guard<std::recursive_mutex> alone(lock);                                                                                       \
        __VA_ARGS__;                                                                                                                             \
        return SUCCESS;                                                                                                                          \
    }
#define DOES(NAME, PARAMETERS, ...) GIVES(NAME, PARAMETERS, [[maybe_unused]] Context &context = context_for(__func__); __VA_ARGS__)

GIVES(cuInit, (unsigned), {
    static void *const arena = mmap((void *)ARENA, ARENA_END - ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (arena == MAP_FAILED || sigaction(SIGSEGV, &action, nullptr) != 0) {
        refuse("to start");
    }
})
GIVES(cuDriverGetVersion, (int *version), *version = 13000)
// NVRTC asks for the driver's cache, and does without.
extern "C" Result cuGetExportTable(const void **, const void *) { return NOT_FOUND; }
GIVES(cuGetErrorString, (int, const char **text), *text = "as the test wanted")
GIVES(cuDeviceGetCount, (int *count), *count = DEVICES)
GIVES(cuDeviceGet, (int *device, int number), *device = number)
GIVES(cuDeviceGetName, (char *name, int size, int), snprintf(name, size, "no device"))
GIVES(cuDeviceTotalMem_v2, (u64 *bytes, int), *bytes = MEMORY)
GIVES(cuDeviceGetAttribute, (int *value, Attribute attribute, int),
      *value = attribute == MAJOR ? ARCH / 10 : attribute == MINOR ? ARCH % 10 : attribute == MEMORY_POOLS)
GIVES(cuDevicePrimaryCtxRetain, (Context **context, int device), *context = &contexts[device]; contexts[device].owners++)
GIVES(cuDevicePrimaryCtxRelease_v2, (int device), wait(contexts[device]); contexts[device].owners--)
GIVES(cuCtxGetCurrent, (Context **context), *context = current)
GIVES(cuCtxSetCurrent, (Context *context), current = context)
DOES(cuMemGetInfo_v2, (u64 *left, u64 *all), *left = *all = MEMORY)
DOES(cuMemAllocAsync, (u64 *address, u64 bytes, void *), return allocate(address, bytes, false, __func__))
DOES(cuMemHostAlloc, (u64 *address, u64 bytes, unsigned), return allocate(address, bytes, true, __func__))
DOES(cuMemFreeAsync, (u64 address, void *), check(address, 1, __func__); start(context, [=] { give_back(address, false, "cuMemFreeAsync"); }))
DOES(cuMemFreeHost, (u64 address), check(address, 1, __func__); give_back(address, true, __func__))
DOES(cuMemsetD8Async, (u64 to, unsigned char byte, u64 bytes, void *), check(to, bytes, __func__); start(context, [=] { memset((void *)to, byte, bytes); }))
DOES(cuMemcpyAsync, (u64 to, u64 from, u64 bytes, void *), copy(context, to, from, bytes, __func__))
DOES(cuMemcpyHtoDAsync_v2, (u64 to, u64 from, u64 bytes, void *), copy(context, to, from, bytes, __func__))
DOES(cuMemcpyHtoD_v2, (u64 to, u64 from, u64 bytes), copy(context, to, from, bytes, __func__); wait(context))
DOES(cuMemcpyDtoH_v2, (u64 to, u64 from, u64 bytes), copy(context, to, from, bytes, __func__); wait(context))
DOES(cuStreamSynchronize, (void *), wait(context))
DOES(cuEventCreate, (double **event, unsigned), *event = new double(0))
DOES(cuEventDestroy_v2, (double *event), start(context, [=] { delete event; }))
DOES(cuEventRecord, (double *event, void *), start(context, [=] { *event = clock() * 1e3 / CLOCKS_PER_SEC; }))
DOES(cuEventSynchronize, (double *), wait(context))
DOES(cuEventElapsedTime_v2, (float *time, double *begin, double *end), *time = *end - *begin)

// Of each kernel of a cubin for this architecture, the parameters' sizes: in its section .nv.info are entries of a byte of format, one of attribute, and
// 16 bits, which with format 4 are the size of what follows; attribute 0x17 is a parameter.
DOES(cuModuleLoadData, (Module **module, const char *image), {
    const unsigned short none = 0;
    auto at = [=](u64 place, auto value) { memcpy(&value, image + place, sizeof value); return value; };
    if (memcmp(image, "\177ELF", 4) != 0 || (at(48, 0u) >> 8 & 0xFF) != ARCH) {
        refuse("what is no cubin for sm_%d", ARCH);
    }
    *module = new Module{&context, {}};
    const u64 headers = at(40, 0ull), size = at(58, none), names = at(headers + at(62, none) * size + 24, 0ull);
    for (u64 header = headers; header < headers + at(60, none) * size; header += size) {
        const std::string name = image + names + at(header, 0u);
        if (name.rfind(".nv.info.", 0) != 0) {
            continue;
        }
        std::vector<unsigned> &sizes = (*module)->kernels[name.substr(9)];
        const u64 first = at(header + 24, 0ull);
        for (u64 entry = first; entry < first + at(header + 32, 0ull); entry += image[entry] == 4 ? 4 + at(entry + 2, none) : 4) {
            if (image[entry] == 4 && image[entry + 1] == 0x17) {
                sizes.resize(std::max<size_t>(sizes.size(), at(entry + 8, none) + 1));
                sizes[at(entry + 8, none)] = at(entry + 12, 0u) >> 18;
            }
        }
    }
})
DOES(cuModuleUnload, (Module *module), if (!context.queue.empty()) { refuse("to unload a module with work under way"); } delete module)
DOES(cuModuleGetFunction, (const Kernel **kernel, Module *module, const char *name), {
    auto found = module->kernels.find(name);
    if (module->context != &context || found == module->kernels.end()) {
        refuse("kernel %s: it is not there, or another device's", name);
    }
    *kernel = &*found;
})
DOES(cuLaunchKernel, (const Kernel *kernel, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned, void *, void **from), {
    const char *name = kernel->first.c_str();
    if (blocks == 0 || blocks > 0x7FFFFFFF || y != 1 || z != 1 || threads != block_of(name)) {
        refuse("%s: %u blocks of %u threads", name, blocks, threads);
    }
    std::vector<u64> words(kernel->second.size());
    for (size_t i = 0; i < words.size(); i++) {
        memcpy(&words[i], from[i], kernel->second[i]);
        if (kernel->second[i] == sizeof(u64)) {
            check(words[i], 1, name);
        }
    }
    start(context, [=] {
        if (const char *wrong = run_kernel(name, blocks, words.data())) {
            refuse("%s: %s", name, wrong);
        }
    });
})

// For tests: the allocation of this number, counted from now, fails; blocks that there are when all work is done.
extern "C" void driver_fails_in(long allocations) { fails_in = allocations; }
extern "C" long driver_blocks() {
    std::lock_guard<std::recursive_mutex> alone(lock);
    for (Context &context : contexts) {
        wait(context);
    }
    return blocks.size();
}
