// The outer step of a part of a tensor: decode R payloads, clip, merge in record order, step. The same bits as `compression::transition`.
//
// One block per chunk. A chunk's sums live in shared memory; the payloads are added one after the other with a barrier between them,
// and the indices of one payload are distinct, so that every coordinate has one writer at a time: no atomics, one order.
// Every rounding is spelled out; nothing may be fused or flushed (-fmad=false -ftz=false -prec-div=true).

typedef unsigned char u8;
typedef unsigned long long u64;

constexpr unsigned THREADS = 256;
constexpr unsigned CHUNK_ELEMENTS = 4096;
constexpr unsigned PACKED_BITS = 12;

// How a tensor is coded.
constexpr unsigned PACKED = 0, ELIAS_FANO = 1, GROUP_MAX = 2;
constexpr unsigned SIGN2 = 0, SIGN1 = 1, REFERENCE = 2;

// A part of a tensor, some of its rows of tiles, as a matrix of tiles; how it is coded, and how it steps.
struct Task {
    u64 rows, cols, tile_rows, tile_cols;
    u64 payloads;
    // Where its table, scale codes, value codes and indices start in each payload's section.
    u64 table, scales, codes, indices;
    // K or the elements of a group.
    unsigned parameter;
    unsigned select;
    unsigned quantizer;
    float lr;
    // The denominator of every sent coordinate; zero if it is the weight of its senders.
    float over_all;
    unsigned padding;
};

// Where one payload's section starts, and what the payload counts for.
struct Source {
    u64 section;
    // Weight times clip factor.
    float factor;
    float weight;
};

struct Chunk {
    u64 number, band, tile;
    // Position of the first element and distance between two rows.
    u64 start, stride;
    u64 height, width;
};

__device__ inline u64 ceil_div(u64 a, u64 b) { return (a + b - 1) / b; }
__device__ inline u64 at_most(u64 a, u64 b) { return a < b ? a : b; }

__device__ inline Chunk locate(const Task &task, u64 number) {
    const u64 tiles = ceil_div(task.cols, task.tile_cols);
    const u64 band = number / tiles, tile = number % tiles;
    const u64 row = band * task.tile_rows, col = tile * task.tile_cols;
    return {number, band, tile, row * task.cols + col, task.cols, at_most(task.tile_rows, task.rows - row), at_most(task.tile_cols, task.cols - col)};
}

// Values that a chunk of `elements` sends.
__device__ inline u64 selected(const Task &task, u64 elements) {
    if (task.select == GROUP_MAX) {
        return ceil_div(elements, task.parameter);
    }
    if (task.quantizer == REFERENCE) {
        const u64 even = at_most(task.parameter, elements) & ~1ull;
        return at_most(even < 2 ? 2 : even, elements);
    }
    const u64 share = task.parameter * elements / CHUNK_ELEMENTS;
    return share == 0 ? 1 : share;
}

__device__ inline unsigned log2_floor(u64 value) {
    unsigned log = 0;
    while (value >>= 1) {
        log++;
    }
    return log;
}

__device__ inline unsigned code_bits(const Task &task) { return task.quantizer == SIGN1 ? 1 : 2; }

__device__ inline u64 code_bytes(const Task &task, u64 elements) { return ceil_div(code_bits(task) * selected(task, elements), 8); }

__device__ inline u64 index_bytes(const Task &task, u64 elements) {
    const u64 k = selected(task, elements);
    if (task.select == ELIAS_FANO) {
        const unsigned low = log2_floor(elements / k);
        return ceil_div(k * low, 8) + ceil_div(k + ((elements - 1) >> low) + 1, 8);
    }
    return ceil_div(k * (task.select == PACKED ? PACKED_BITS : log2_floor(task.parameter)), 8);
}

// Sums a size over the chunks before this one.
template <u64 (*SIZE)(const Task &, u64)> __device__ inline u64 bytes_before(const Task &task, const Chunk &chunk) {
    const u64 full_tiles = ceil_div(task.cols, task.tile_cols) - 1;
    const u64 last_width = task.cols - full_tiles * task.tile_cols;
    const u64 band_bytes = full_tiles * SIZE(task, task.tile_rows * task.tile_cols) + SIZE(task, task.tile_rows * last_width);
    return chunk.band * band_bytes + chunk.tile * SIZE(task, chunk.height * task.tile_cols);
}

// Bits `bits * j` to `bits * (j + 1) - 1` of a stream.
__device__ inline unsigned unpack(const u8 *bytes, unsigned j, unsigned bits) {
    unsigned value = 0;
    for (unsigned bit = 0; bit < bits; bit++) {
        const unsigned at = bits * j + bit;
        value |= (bytes[at / 8] >> at % 8 & 1u) << bit;
    }
    return value;
}

// The position of one number j of a bitmap that has more than j ones.
__device__ inline unsigned find_one(const u8 *bitmap, unsigned j) {
    unsigned at = 0;
    while (true) {
        const unsigned ones = __popc(bitmap[at]);
        if (j < ones) {
            break;
        }
        j -= ones;
        at++;
    }
    unsigned rest = bitmap[at];
    for (; j > 0; j--) {
        rest &= rest - 1;
    }
    return 8 * at + __ffs(rest) - 1;
}

__device__ inline unsigned index_of(const Task &task, const u8 *indices, unsigned j, unsigned count, unsigned elements) {
    if (task.select == PACKED) {
        return unpack(indices, j, PACKED_BITS);
    }
    if (task.select == GROUP_MAX) {
        return j * task.parameter + unpack(indices, j, log2_floor(task.parameter));
    }
    const unsigned low = log2_floor(elements / count);
    const unsigned high = find_one(indices + ceil_div(count * low, 8), j) - j;
    return high << low | unpack(indices, j, low);
}

__device__ inline float float_at(const u8 *bytes) {
    return __uint_as_float(bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (unsigned)bytes[3] << 24);
}

// Adds one payload's values of this chunk; each coordinate occurs at most once among them. A value of zero counts as not sent.
__device__ inline void add(const Task &task, const Chunk &chunk, const u8 *section, const Source &source, const float *tables, float *sums, float *weights) {
    const u8 *codes = section + task.codes + bytes_before<code_bytes>(task, chunk);
    const u8 *indices = section + task.indices + bytes_before<index_bytes>(task, chunk);
    const unsigned elements = chunk.height * chunk.width, count = selected(task, elements), bits = code_bits(task);
    for (unsigned j = threadIdx.x; j < count; j += THREADS) {
        const unsigned code = unpack(codes, j, bits);
        const float value = task.quantizer == REFERENCE ? float_at(section + task.table + 4 * code)
                                                        : tables[1024 * task.quantizer + 4 * section[task.scales + chunk.number] + code];
        if (value != 0.0f) {
            const unsigned index = index_of(task, indices, j, count, elements);
            sums[index] = __fadd_rn(sums[index], __fmul_rn(source.factor, value));
            weights[index] = __fadd_rn(weights[index], source.weight);
        }
    }
}

// theta: rows * cols elements. bytes: the payloads' sections as they are in memory. sources: task.payloads of them, in record order.
// tables: what each (quantizer, scale code, value code) decodes to, 2 * 256 * 4.
extern "C" __global__ void __launch_bounds__(THREADS)
apply(float *theta, Task task, const u8 *bytes, const Source *sources, const float *tables) {
    __shared__ float sums[CHUNK_ELEMENTS];
    __shared__ float weights[CHUNK_ELEMENTS];
    const Chunk chunk = locate(task, blockIdx.x);
    const unsigned elements = chunk.height * chunk.width, width = chunk.width;
    for (unsigned i = threadIdx.x; i < elements; i += THREADS) {
        sums[i] = weights[i] = 0.0f;
    }
    for (u64 r = 0; r < task.payloads; r++) {
        __syncthreads();
        add(task, chunk, bytes + sources[r].section, sources[r], tables, sums, weights);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < elements; i += THREADS) {
        if (weights[i] != 0.0f) {
            float *element = theta + chunk.start + i / width * chunk.stride + i % width;
            const float over = task.over_all != 0.0f ? task.over_all : weights[i];
            *element = __fsub_rn(*element, __fmul_rn(task.lr, __fdiv_rn(sums[i], over)));
        }
    }
}
