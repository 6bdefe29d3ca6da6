// Runs a kernel on the CPU. Arguments: the order of the threads, `ascending` or `descending`; the kernel. The machine's memory comes on standard input,
// buffer after buffer, each behind the u64 number of its bytes, and goes to standard output in the same way when the kernel has ended. The last buffer holds
// u64: the number of blocks, then the kernel's arguments.
//
// An address is the number of a buffer, counted from 1, times 2^48, plus an offset in it; zero is null.

#include "cuda_host.h"

#include "kernels.cu"

#include "dispatch.h"

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

static void run(host::Order order, const std::string &kernel) {
    Memory memory;
    for (Buffer buffer; read(buffer);) {
        memory.buffers.push_back(buffer);
    }
    const Buffer words = memory.buffers.back();
    memory.buffers.pop_back();
    const u64 *arguments = (const u64 *)words.data();
    host::launch(arguments[0], threads_of(kernel), order, with_arguments(kernel, memory, arguments + 1));
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
