// The outer step: decode R payloads, clip, merge in record order, step. The same bits as `compression::transition`.
//
// A chunk's sums live in shared memory. Warps decode a payload each, then one warp adds the payloads one after the other, while other blocks have the
// multiprocessor; the indices of one payload are distinct, so that every coordinate has one writer at a time: no atomics, one order.

// A part of θ.
struct Step {
    Part part;
    float *theta;
    // The same elements in bf16, or null.
    bf16 *shadow;
    // Number of its first payload's `Source`; the others follow in record order.
    u64 sources;
};

// A payload's section on the device, and what the payload counts for.
struct Source {
    const u8 *section;
    // Weight times clip factor.
    float factor;
    float weight;
};

// What is needed to read the payloads of a chunk.
struct Reading {
    Coding coding;
    bool is_elias_fano;
    // Elements of a group, or zero.
    unsigned group, code_bits;
    // Whether the values that codes stand for are in a section's table; else they are those of the chunk's scale code, from here on.
    bool has_table;
    const float *tables;
    // Where a section has them, and the chunk's codes and indices.
    unsigned values, codes, indices;
};

__device__ inline Reading reading(const Part &part, const Chunk &chunk, const float *tables) {
    const bool has_table = part.quantizer == REFERENCE;
    return {chunk.coding, part.select == ELIAS_FANO, part.group, code_bits(part), has_table, tables + 1024 * part.quantizer,
            has_table ? part.table : part.scales + chunk.number, codes_at(part, chunk), indices_at(part, chunk)};
}

// A payload of one chunk in shared memory: what its codes stand for times its factor, its weight, one bit for each code that stands for zero, and the
// bytes of its codes and indices.
constexpr unsigned PRODUCTS = 0, WEIGHT = 4, ZEROS = 5, BYTES = 6;
// Words for them: more than the largest has, 1024 bytes of codes and 6144 of indices.
constexpr unsigned STAGE_WORDS = 2048;
__device__ inline unsigned words_of(const Coding &coding) { return BYTES + ceil_div(coding.code_bytes + coding.index_bytes, 4); }

// A value: its index, its code above that. Zero counts as not sent.
constexpr unsigned CODE_SHIFT = 12, NOT_SENT = 0xFFFF;

struct Sums {
    // Weighted sum of the values, and senders' weight, of each element.
    float values[CHUNK_ELEMENTS], weights[CHUNK_ELEMENTS];
    // As many payloads as fit.
    unsigned staged[STAGE_WORDS];
    // Their values.
    u16 sent[CHUNK_ELEMENTS];
};

// By one warp: brings a payload's bytes of this chunk into shared memory.
__device__ inline void stage(const Reading &reading, const Source &source, unsigned *words) {
    const unsigned code_bytes = reading.coding.code_bytes;
    const u8 *codes = source.section + reading.codes, *indices = source.section + reading.indices - code_bytes;
    for (unsigned i = lane(); i < code_bytes + reading.coding.index_bytes; i += WARP) {
        ((u8 *)(words + BYTES))[i] = (i < code_bytes ? codes : indices)[i];
    }
    const u8 *values = source.section + reading.values;
    float value = 0.0f;
    if (lane() < 4) {
        const u8 *entry = values + 4 * lane();
        value = reading.has_table ? __uint_as_float(entry[0] | entry[1] << 8 | entry[2] << 16 | (unsigned)entry[3] << 24)
                                  : reading.tables[4 * *values + lane()];
        words[PRODUCTS + lane()] = __float_as_uint(__fmul_rn(source.factor, value));
    }
    const unsigned zeros = __ballot_sync(ALL_LANES, value == 0.0f);
    if (lane() == 0) {
        words[WEIGHT] = __float_as_uint(source.weight);
        words[ZEROS] = zeros;
    }
}

// By one warp: of the first ones of a bitmap that starts at a bit, the zeros before each.
__device__ inline void count_zeros(const unsigned *words, unsigned first, unsigned count, u16 *zeros) {
    const unsigned before_me = (1u << lane()) - 1;
    const unsigned *next = words + first / 32;
    unsigned low = *next, ones = 0;
    for (unsigned at = lane(); ones < count; at += WARP) {
        const unsigned high = *++next, word = __funnelshift_r(low, high, first % 32), j = ones + __popc(word & before_me);
        if (word >> lane() & 1 && j < count) {
            zeros[j] = at - j;
        }
        low = high;
        ones += __popc(word);
    }
    __syncwarp();
}

// By one warp: the values of a staged payload.
__device__ inline void decode(const Reading &reading, const unsigned *words, u16 *sent) {
    const Coding coding = reading.coding;
    const unsigned zeros = words[ZEROS], indices = 32 * BYTES + 8 * coding.code_bytes, bits = coding.index_bits;
    if (reading.is_elias_fano) {
        count_zeros(words, indices + 8 * ceil_div(coding.k * bits, 8), coding.k, sent);
    }
    for (unsigned j = lane(); j < coding.k; j += WARP) {
        const unsigned at = reading.code_bits * j, code = words[BYTES + at / 32] >> at % 32 & ((1u << reading.code_bits) - 1);
        const unsigned high = reading.is_elias_fano ? sent[j] << bits : j * reading.group;
        sent[j] = zeros >> code & 1 ? NOT_SENT : code << CODE_SHIFT | (high + number(words, indices, j, bits));
    }
}

// By one warp.
__device__ inline void add(const unsigned *words, const u16 *sent, unsigned k, Sums &sums) {
    const float weight = __uint_as_float(words[WEIGHT]);
    for (unsigned j = lane(); j < k; j += WARP) {
        const unsigned value = sent[j], index = value % CHUNK_ELEMENTS;
        if (value != NOT_SENT) {
            sums.values[index] = __fadd_rn(sums.values[index], __uint_as_float(words[PRODUCTS + (value >> CODE_SHIFT)]));
            sums.weights[index] = __fadd_rn(sums.weights[index], weight);
        }
    }
    __syncwarp();
}

// What is done with a record's payloads.
struct Merge {
    // Those of all parts.
    const Source *sources;
    unsigned payloads;
    float lr;
    // The denominator of every sent coordinate; zero if it is the weight of its senders.
    float over_all;
    // What each (quantizer, scale code, value code) decodes to, 2 * 256 * 4.
    const float *tables;
};

__device__ inline void add_payloads(const Reading &reading, const Source *sources, unsigned payloads, Sums &sums) {
    constexpr unsigned WARPS = THREADS / WARP;
    const unsigned k = reading.coding.k, words_each = words_of(reading.coding), room = at_most((STAGE_WORDS - 1) / words_each, CHUNK_ELEMENTS / k);
    const unsigned warp = threadIdx.x / WARP;
    for (unsigned group = 0; group < GROUPS<THREADS>; group++) {
        ((float4 *)sums.values)[first_of<THREADS>(group) / GROUP] = ((float4 *)sums.weights)[first_of<THREADS>(group) / GROUP] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    }
    for (unsigned first = 0; first < payloads; first += room) {
        const unsigned count = at_most(room, payloads - first);
        for (unsigned r = warp; r < count; r += WARPS) {
            stage(reading, sources[first + r], sums.staged + r * words_each);
        }
        __syncwarp();
        for (unsigned r = warp; r < count; r += WARPS) {
            decode(reading, sums.staged + r * words_each, sums.sent + r * k);
        }
        __syncthreads();
        for (unsigned r = 0; warp == 0 && r < count; r++) {
            add(sums.staged + r * words_each, sums.sent + r * k, k, sums);
        }
        __syncthreads();
    }
}

// False if a new element is not finite.
template <bool AT_ONCE> __device__ inline bool take_step(const Step &step, const Chunk &chunk, const Merge &merge, Sums &sums) {
    float theta[GROUPS<THREADS>][GROUP];
    // On their way while the payloads are decoded.
    for (unsigned group = 0; group < GROUPS<THREADS>; group++) {
        load<THREADS, AT_ONCE>(step.theta, chunk, group, theta[group]);
    }
    add_payloads(reading(step.part, chunk, merge.tables), merge.sources + step.sources, merge.payloads, sums);
    unsigned largest = 0;
    for (unsigned group = 0; group < GROUPS<THREADS>; group++) {
        const unsigned first = first_of<THREADS>(group);
        const float4 v = *(const float4 *)(sums.values + first), w = *(const float4 *)(sums.weights + first);
        const float values[GROUP] = {v.x, v.y, v.z, v.w}, weights[GROUP] = {w.x, w.y, w.z, w.w};
        for (unsigned i = 0; i < GROUP; i++) {
            float &element = theta[group][i];
            const bool is_sent = weights[i] != 0.0f;
            const float over = merge.over_all != 0.0f ? merge.over_all : is_sent ? weights[i] : 1.0f;
            const float stepped = __fsub_rn(element, __fmul_rn(merge.lr, __fdiv_rn(values[i], over)));
            element = is_sent ? stepped : element;
            largest = larger(largest, key(element));
        }
        store<THREADS, AT_ONCE>(theta[group], step.theta, chunk, group);
        if (step.shadow) {
            store<THREADS, AT_ONCE>(theta[group], step.shadow, chunk, group);
        }
    }
    return largest < INFINITE;
}

// steps: the parts of θ. owner: the part of each block. There is at least one payload. fault: becomes the lowest number of a part with a new element that is
// not finite, if there is one.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
apply(const Step *steps, const unsigned *owner, const Source *sources, unsigned payloads, float lr, float over_all, const float *tables, unsigned *fault) {
    __shared__ Sums sums;
    const Merge merge = {sources, payloads, lr, over_all, tables};
    const Step &step = steps[owner[blockIdx.x]];
    const Chunk chunk = locate(step.part);
    const bool is_finite = chunk.coding.at_once ? take_step<true>(step, chunk, merge, sums) : take_step<false>(step, chunk, merge, sums);
    if (!is_finite) {
        atomicMin(fault, owner[blockIdx.x]);
    }
}
