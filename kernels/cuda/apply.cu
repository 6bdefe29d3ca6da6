// The outer step: decode R payloads, clip, merge in record order, step. The same bits as `compression::transition`.
//
// A chunk's sums live in shared memory. As many payloads as there are threads for are decoded side by side, then added one after the other with a
// barrier between them; the indices of one payload are distinct, so that every coordinate has one writer at a time: no atomics, one order.

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

// A payload's values of one chunk in shared memory: what its codes decode to, its factor and weight, codes, indices.
constexpr unsigned VALUES = 0, FACTOR = 4, WEIGHT = 5, CODES = 6;
// Words for them: more than the largest has, 1024 bytes of codes and 6144 of indices.
constexpr unsigned STAGE_WORDS = 2048;

// Where a chunk's indices start in its words, and how many there are.
__device__ inline unsigned index_word(const Coding &coding) { return CODES + ceil_div(coding.code_bytes, 4); }
__device__ inline unsigned words_of(const Coding &coding) { return index_word(coding) + ceil_div(coding.index_bytes, 4); }

// One warp brings one payload's bytes of this chunk into shared memory.
__device__ inline void stage(const Part &part, const Chunk &chunk, const Source &source, const float *tables, unsigned *words) {
    const unsigned lane = threadIdx.x % WARP;
    const u8 *section = source.section;
    if (lane < 4) {
        const u8 *entry = section + part.table + 4 * lane;
        words[VALUES + lane] = part.quantizer == REFERENCE
                                   ? entry[0] | entry[1] << 8 | entry[2] << 16 | (unsigned)entry[3] << 24
                                   : __float_as_uint(tables[1024 * part.quantizer + 4 * section[part.scales + chunk.number] + lane]);
    } else if (lane == FACTOR) {
        words[FACTOR] = __float_as_uint(source.factor);
    } else if (lane == WEIGHT) {
        words[WEIGHT] = __float_as_uint(source.weight);
    }
    const u8 *codes = section + codes_at(part, chunk), *indices = section + indices_at(part, chunk);
    for (unsigned i = lane; i < chunk.coding.code_bytes; i += WARP) {
        ((u8 *)(words + CODES))[i] = codes[i];
    }
    for (unsigned i = lane; i < chunk.coding.index_bytes; i += WARP) {
        ((u8 *)(words + index_word(chunk.coding)))[i] = indices[i];
    }
}

// The position of one number j of a bitmap that starts at a bit and has more than j ones.
__device__ inline unsigned find_one(const unsigned *words, unsigned first, unsigned j) {
    unsigned at = 0, word = bits_from(words, first);
    for (unsigned ones = __popc(word); j >= ones; ones = __popc(word)) {
        j -= ones;
        at += 32;
        word = bits_from(words, first + at);
    }
    for (unsigned half = 16; half > 0; half /= 2) {
        const unsigned ones = __popc(word & ((1u << half) - 1));
        if (j >= ones) {
            j -= ones;
            at += half;
            word >>= half;
        }
    }
    return at;
}

__device__ inline unsigned index_of(const Part &part, const Coding &coding, const unsigned *words, unsigned j) {
    const unsigned first = 32 * index_word(coding), low = number(words, first, j, coding.index_bits);
    if (part.select == PACKED) {
        return low;
    }
    if (part.select == GROUP_MAX) {
        return j * part.group + low;
    }
    return (find_one(words, first + 8 * ceil_div(coding.k * coding.index_bits, 8), j) - j) << coding.index_bits | low;
}

// Value j of a staged payload; zero counts as not sent, and has no index.
struct Sent {
    unsigned index;
    float value;
};

__device__ inline Sent decode(const Part &part, const Coding &coding, const unsigned *words, unsigned j) {
    const float value = __uint_as_float(words[VALUES + number(words, 32 * CODES, j, code_bits(part))]);
    return {value == 0.0f ? 0 : index_of(part, coding, words, j), value};
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

struct Sums {
    // Weighted sum of the values, and senders' weight, of each element.
    float values[CHUNK_ELEMENTS], weights[CHUNK_ELEMENTS];
    unsigned staged[STAGE_WORDS];
};

__device__ inline void add(const Sent &sent, const unsigned *words, Sums &sums) {
    if (sent.value != 0.0f) {
        float &value = sums.values[sent.index], &weight = sums.weights[sent.index];
        value = __fadd_rn(value, __fmul_rn(__uint_as_float(words[FACTOR]), sent.value));
        weight = __fadd_rn(weight, __uint_as_float(words[WEIGHT]));
    }
}

__device__ inline void add_payloads(const Part &part, const Chunk &chunk, const Source *sources, const Merge &merge, Sums &sums) {
    const Coding coding = chunk.coding;
    // A payload's threads, a power of two if several payloads are decoded at once.
    const unsigned width = coding.k > THREADS / 2 ? THREADS : 1u << (32 - __clz(coding.k - 1));
    const unsigned abreast = THREADS / width, mine = threadIdx.x / width;
    const unsigned words_each = words_of(coding), room = (STAGE_WORDS - 1) / words_each;
    for (unsigned i = threadIdx.x; i < CHUNK_ELEMENTS; i += THREADS) {
        sums.values[i] = sums.weights[i] = 0.0f;
    }
    for (unsigned first = 0; first < merge.payloads; first += room) {
        const unsigned count = at_most(room, merge.payloads - first);
        for (unsigned r = threadIdx.x / WARP; r < count; r += THREADS / WARP) {
            stage(part, chunk, sources[first + r], merge.tables, sums.staged + r * words_each);
        }
        __syncthreads();
        for (unsigned r = 0; r < count; r += abreast) {
            const unsigned *words = sums.staged + (r + mine) * words_each;
            Sent sent = {0, 0.0f};
            if (r + mine < count && threadIdx.x % width < coding.k) {
                sent = decode(part, coding, words, threadIdx.x % width);
            }
            for (unsigned turn = 0; turn < at_most(abreast, count - r); turn++) {
                if (turn == mine) {
                    add(sent, words, sums);
                    for (unsigned j = threadIdx.x + THREADS; j < coding.k; j += THREADS) {
                        add(decode(part, coding, words, j), words, sums);
                    }
                }
                __syncthreads();
            }
        }
    }
}

// False if a new element is not finite.
template <bool AT_ONCE> __device__ inline bool take_step(const Step &step, const Chunk &chunk, const Merge &merge, Sums &sums) {
    float theta[MINE];
    // On their way while the payloads are decoded.
    load_all<AT_ONCE>(step.theta, chunk, theta);
    add_payloads(step.part, chunk, merge.sources + step.sources, merge, sums);
    bool is_finite = true;
    for (unsigned i = 0; i < MINE; i++) {
        const unsigned index = index_of_mine(i);
        const float weight = sums.weights[index];
        if (weight != 0.0f) {
            const float over = merge.over_all != 0.0f ? merge.over_all : weight;
            theta[i] = __fsub_rn(theta[i], __fmul_rn(merge.lr, __fdiv_rn(sums.values[index], over)));
            is_finite &= key(theta[i]) < INFINITE;
        }
    }
    store_all<AT_ONCE>(theta, step.theta, chunk);
    if (step.shadow) {
        store_all<AT_ONCE>(theta, step.shadow, chunk);
    }
    return is_finite;
}

// steps: the parts of θ. owner: the part of each block. There is at least one payload. fault: becomes the lowest number of a part with a new element that is
// not finite, if there is one.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
apply(const Step *steps, const unsigned *owner, const Source *sources, unsigned payloads, float lr, float over_all, const float *tables, unsigned *fault) {
    __shared__ Sums sums;
    const Merge merge = {sources, payloads, lr, over_all, tables};
    const Step &step = steps[owner[blockIdx.x]];
    const Chunk chunk = locate(step.part);
    const bool at_once = is_full(chunk) && is_aligned(step.theta + chunk.start) && (!step.shadow || is_aligned(step.shadow + chunk.start));
    const bool is_finite = at_once ? take_step<true>(step, chunk, merge, sums) : take_step<false>(step, chunk, merge, sums);
    if (!is_finite) {
        atomicMin(fault, owner[blockIdx.x]);
    }
}
