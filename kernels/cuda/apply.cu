// The outer step of one tensor: decode R payloads, clip, merge in record order, step. The same bits as `compression::transition`.
//
// One block per chunk. A chunk's sums live in shared memory; the payloads are added one after the other with a barrier between them,
// and the indices of one payload are distinct, so that every coordinate has one writer at a time: no atomics, one order.
// Every rounding is spelled out; nothing may be fused or flushed (-fmad=false -ftz=false -prec-div=true).

typedef unsigned char u8;
typedef unsigned long long u64;

constexpr unsigned THREADS = 256;
constexpr unsigned CHUNK_ELEMENTS = 4096;
constexpr unsigned CODE_BITS = 2;
constexpr unsigned INDEX_BITS = 12;

// One tensor as a matrix of tiles, and how it steps.
struct Task {
    u64 rows, cols, tile_rows, tile_cols;
    u64 payloads;
    float lr;
    // The denominator of every sent coordinate; zero if it is the weight of its senders.
    float over_all;
};

// Where one payload's sections of this tensor start, how it is coded, and what it counts for.
struct Source {
    u64 scales, codes, indices;
    u64 k;
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
__device__ inline u64 selected(u64 k, u64 elements) {
    const u64 share = k * elements / CHUNK_ELEMENTS;
    return share == 0 ? 1 : share;
}

__device__ inline u64 stream_bytes(u64 k, u64 elements, unsigned bits) { return ceil_div(bits * selected(k, elements), 8); }

// Bytes of the chunks before this one in a section of `bits` per value.
__device__ inline u64 bytes_before(const Task &task, const Chunk &chunk, u64 k, unsigned bits) {
    const u64 full_tiles = ceil_div(task.cols, task.tile_cols) - 1;
    const u64 last_width = task.cols - full_tiles * task.tile_cols;
    const u64 band_bytes = full_tiles * stream_bytes(k, task.tile_rows * task.tile_cols, bits) + stream_bytes(k, task.tile_rows * last_width, bits);
    return chunk.band * band_bytes + chunk.tile * stream_bytes(k, chunk.height * task.tile_cols, bits);
}

// Adds one payload's values of this chunk; each coordinate occurs at most once among them. A value of zero counts as not sent.
__device__ inline void add(const Task &task, const Chunk &chunk, const u8 *bytes, const Source &source, const float *magnitudes, float *sums, float *weights) {
    const float *values = magnitudes + 4 * bytes[source.scales + chunk.number];
    const u8 *codes = bytes + source.codes + bytes_before(task, chunk, source.k, CODE_BITS);
    const u8 *indices = bytes + source.indices + bytes_before(task, chunk, source.k, INDEX_BITS);
    const unsigned count = selected(source.k, chunk.height * chunk.width);
    for (unsigned j = threadIdx.x; j < count; j += THREADS) {
        const float value = values[codes[j / 4] >> (j % 4 * CODE_BITS) & 3];
        if (value != 0.0f) {
            const u8 *at = indices + j * 3 / 2;
            const unsigned both = at[0] | at[1] << 8;
            const unsigned index = j % 2 == 0 ? both & 0xFFF : both >> 4;
            sums[index] = __fadd_rn(sums[index], __fmul_rn(source.factor, value));
            weights[index] = __fadd_rn(weights[index], source.weight);
        }
    }
}

// theta: rows * cols elements. bytes: all payloads. sources: task.payloads of them, in record order.
// magnitudes: what each (scale code, value code) decodes to, 256 * 4.
extern "C" __global__ void __launch_bounds__(THREADS)
apply(float *theta, Task task, const u8 *bytes, const Source *sources, const float *magnitudes) {
    __shared__ float sums[CHUNK_ELEMENTS];
    __shared__ float weights[CHUNK_ELEMENTS];
    const Chunk chunk = locate(task, blockIdx.x);
    const unsigned elements = chunk.height * chunk.width, width = chunk.width;
    for (unsigned i = threadIdx.x; i < elements; i += THREADS) {
        sums[i] = weights[i] = 0.0f;
    }
    for (u64 r = 0; r < task.payloads; r++) {
        __syncthreads();
        add(task, chunk, bytes, sources[r], magnitudes, sums, weights);
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
