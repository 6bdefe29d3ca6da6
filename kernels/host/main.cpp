// Runs `apply` on the CPU, part by part. Argument: the order of the threads, `ascending` or `descending`. Standard input: u64 bytes of all
// payloads' sections, the sections, 2048 table entries; then per part its Task, its Sources, its elements. Standard output: the new elements.

#include "cuda_host.h"

#include "apply.cu"

#include <cstdio>
#include <string>

static bool read(void *to, size_t size) { return fread(to, 1, size, stdin) == size; }

template <class T> static std::vector<T> read_many(u64 count) {
    std::vector<T> values(count);
    if (!read(values.data(), count * sizeof(T))) {
        throw std::runtime_error("the input is cut short");
    }
    return values;
}

static void run(host::Order order) {
    const std::vector<u8> bytes = read_many<u8>(read_many<u64>(1)[0]);
    const std::vector<float> tables = read_many<float>(2048);
    Task task;
    while (read(&task, sizeof task)) {
        const std::vector<Source> sources = read_many<Source>(task.payloads);
        std::vector<float> theta = read_many<float>(task.rows * task.cols);
        const u64 blocks = ceil_div(task.rows, task.tile_rows) * ceil_div(task.cols, task.tile_cols);
        host::launch(blocks, THREADS, order, [&] { apply(theta.data(), task, bytes.data(), sources.data(), tables.data()); });
        fwrite(theta.data(), sizeof(float), theta.size(), stdout);
    }
}

int main(int count, char **arguments) {
    try {
        run(count > 1 && std::string(arguments[1]) == "descending" ? host::Order::Descending : host::Order::Ascending);
    } catch (const std::exception &error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
