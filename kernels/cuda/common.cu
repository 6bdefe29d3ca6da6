// What all kernels share: how a tensor is cut into chunks, where a chunk's bytes lie in a section in memory, how its elements are read.
//
// Every rounding that decides a bit is spelled out (`__fmul_rn` and its like); nothing may be fused or flushed
// (-fmad=false -ftz=false -prec-div=true -prec-sqrt=true).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;

// Threads of a block: of those that encode, and of all others. Each works on groups of four consecutive elements of a chunk.
constexpr unsigned ENCODE_THREADS = 128, THREADS = 256;
constexpr unsigned GROUP = 4;
constexpr unsigned CHUNK_ELEMENTS = 4096;
// Groups of a thread.
template <unsigned BLOCK> constexpr unsigned GROUPS = CHUNK_ELEMENTS / (BLOCK * GROUP);
constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFF;
constexpr unsigned PACKED_BITS = 12;

// How a tensor is coded.
constexpr unsigned PACKED = 0, ELIAS_FANO = 1, GROUP_MAX = 2;
constexpr unsigned SIGN2 = 0, SIGN1 = 1, REFERENCE = 2;

// How the values of a chunk are coded: k of them; the bits of an index that are written as they are, with Elias-Fano the low ones, else all; bytes of codes
// and of indices.
struct Coding {
    unsigned k, index_bits, code_bytes, index_bytes;
    // Whether each group of such a chunk lies side by side, and aligned in every tensor, so that it is read and written at once.
    unsigned at_once;
};

// Some rows of tiles of a tensor as a matrix of tiles, and how they are coded. One block works on each chunk. A part has fewer than 2^31 elements.
struct Part {
    unsigned rows, cols, tile_rows, tile_cols;
    // Chunks of a row of tiles.
    unsigned tiles;
    // Where its table, scale codes, value codes and indices start in a section.
    unsigned table, scales, codes, indices;
    unsigned select;
    // Elements of a group, if one value of each is sent; else zero.
    unsigned group;
    unsigned quantizer;
    // Of a chunk in any row of tiles but the last, then in that one; of any tile of the row but the last, then of that one.
    Coding coding[2][2];
    // The launch's block that works on its first chunk.
    unsigned first_block;
    unsigned padding;
};

struct Chunk {
    unsigned number, band, tile;
    // Whether it is in the last row of tiles.
    bool is_low;
    // Position of the first element and distance between two rows.
    unsigned start, stride;
    unsigned height, width;
    Coding coding;
};

__device__ inline unsigned ceil_div(unsigned a, unsigned b) { return (a + b - 1) / b; }
__device__ inline unsigned at_most(unsigned a, unsigned b) { return a < b ? a : b; }
__device__ inline unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }
__device__ inline unsigned lane() { return threadIdx.x % WARP; }

// The chunk of this block.
__device__ inline Chunk locate(const Part &part) {
    const unsigned number = blockIdx.x - part.first_block, band = number / part.tiles, tile = number - band * part.tiles;
    const unsigned row = band * part.tile_rows, col = tile * part.tile_cols;
    const bool is_low = row + part.tile_rows >= part.rows;
    return {number, band, tile, is_low, row * part.cols + col, part.cols, at_most(part.tile_rows, part.rows - row), at_most(part.tile_cols, part.cols - col),
            part.coding[is_low][tile + 1 == part.tiles]};
}

__device__ inline unsigned code_bits(const Part &part) { return part.quantizer == SIGN1 ? 1 : 2; }

// Where a chunk's codes and indices start in its section: sizes are summed over the part's chunks before it.
__device__ inline unsigned codes_at(const Part &part, const Chunk &chunk) {
    const unsigned band = (part.tiles - 1) * part.coding[0][0].code_bytes + part.coding[0][1].code_bytes;
    return part.codes + chunk.band * band + chunk.tile * part.coding[chunk.is_low][0].code_bytes;
}
__device__ inline unsigned indices_at(const Part &part, const Chunk &chunk) {
    const unsigned band = (part.tiles - 1) * part.coding[0][0].index_bytes + part.coding[0][1].index_bytes;
    return part.indices + chunk.band * band + chunk.tile * part.coding[chunk.is_low][0].index_bytes;
}

// Elements in memory: f32, or bf16, to which a value is rounded to nearest, ties to even.
struct bf16 {
    u16 bits;
};

#ifdef __CUDACC__
// An instruction that has a name in CUDA C++ only with its headers; the CPU's is in host/cuda_host.h. Not a number stays so.
__device__ inline unsigned cvt_rn_bf16x2(float high, float low) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }
__device__ inline void narrow(float value, float &to) { to = value; }
__device__ inline void narrow(float value, bf16 &to) { to.bits = cvt_rn_bf16x2(0.0f, value); }

// The lowest keys of what is not finite, and of what is not when rounded to bf16.
constexpr unsigned INFINITE = 0x7F800000, ROUNDS_TO_INFINITE = 0x7F7F8000;

// The magnitude as an integer of the same order.
__device__ inline unsigned key(float value) { return __float_as_uint(value) & 0x7FFFFFFF; }

template <class T> __device__ inline bool is_aligned(const T *four) { return (u64)four % (GROUP * sizeof(T)) == 0; }

// The index within the chunk of this thread's first element of a group.
template <unsigned BLOCK> __device__ inline unsigned first_of(unsigned group) { return (group * BLOCK + threadIdx.x) * GROUP; }

__device__ inline unsigned position(const Chunk &chunk, unsigned index) { return chunk.start + index / chunk.width * chunk.stride + index % chunk.width; }

// This thread's groups in a chunk that is read at once, whose rows have 64 or 4096 elements: the position of the first, and from each to the next.
struct Groups {
    unsigned first, step;
};
template <unsigned BLOCK> __device__ inline Groups groups_at_once(const Chunk &chunk) {
    const unsigned index = first_of<BLOCK>(0);
    if (chunk.height == 1) {
        return {chunk.start + index, BLOCK * GROUP};
    }
    return {chunk.start + index / 64 * chunk.stride + index % 64, BLOCK * GROUP / 64 * chunk.stride};
}

// Tensors are larger than caches, which need not keep what passes by.
__device__ inline void load_four(const float *from, float *to) {
    const float4 four = __ldcs((const float4 *)from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ inline void load_four(const bf16 *from, float *to) {
    const uint2 four = __ldcs((const uint2 *)from);
    to[0] = __uint_as_float(four.x << 16), to[1] = __uint_as_float(four.x & 0xFFFF0000);
    to[2] = __uint_as_float(four.y << 16), to[3] = __uint_as_float(four.y & 0xFFFF0000);
}
__device__ inline void store_four(const float *from, float *to) { __stcs((float4 *)to, float4{from[0], from[1], from[2], from[3]}); }
__device__ inline void store_four(const float *from, bf16 *to) {
    __stcs((uint2 *)to, uint2{cvt_rn_bf16x2(from[1], from[0]), cvt_rn_bf16x2(from[3], from[2])});
}

// A group of this thread, at once or element by element; zeros where the chunk has ended.
template <unsigned BLOCK, bool AT_ONCE, class T> __device__ inline void load(const T *tensor, const Chunk &chunk, unsigned group, float *to) {
    if constexpr (AT_ONCE) {
        const Groups groups = groups_at_once<BLOCK>(chunk);
        load_four(tensor + (groups.first + group * groups.step), to);
    } else {
        const unsigned index = first_of<BLOCK>(group);
        for (unsigned i = 0; i < GROUP; i++) {
            to[i] = index + i < chunk.height * chunk.width ? widen(tensor[position(chunk, index + i)]) : 0.0f;
        }
    }
}

template <unsigned BLOCK, bool AT_ONCE, class T> __device__ inline void store(const float *from, T *tensor, const Chunk &chunk, unsigned group) {
    if constexpr (AT_ONCE) {
        const Groups groups = groups_at_once<BLOCK>(chunk);
        store_four(from, tensor + (groups.first + group * groups.step));
    } else {
        const unsigned index = first_of<BLOCK>(group);
        for (unsigned i = 0; i < GROUP; i++) {
            if (index + i < chunk.height * chunk.width) {
                narrow(from[i], tensor[position(chunk, index + i)]);
            }
        }
    }
}

// 32 bits of a stream of words from bit `at` on. Reads the word behind them.
__device__ inline unsigned bits_from(const unsigned *words, unsigned at) { return __funnelshift_r(words[at / 32], words[at / 32 + 1], at % 32); }

// Number `j` of a stream of numbers of so many bits, at most 12.
__device__ inline unsigned number(const unsigned *words, unsigned first, unsigned j, unsigned bits) {
    return bits_from(words, first + bits * j) & ((1u << bits) - 1);
}
