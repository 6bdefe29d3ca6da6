// From θ before and after the inner steps and error feedback e to a payload's sections and the next e, in one pass over the elements:
// a = beta * e + (before - after), top-k of each chunk, its scale, codes and indices, e = a - sent. The same bits as `compression::encode`.
//
// A block holds its chunk in registers. What is selected is found by counting: k of the threads' largest magnitudes bound the k-th largest of all from
// below, so that few candidates are left; among those the threshold is found exactly. Counts and bitmaps do not depend on the order of threads.

// A part of the tensors, and where its section lies.
template <class T, class E> struct Job {
    Part part;
    const T *before, *after;
    const E *feedback;
    // May be `feedback`.
    E *next_feedback;
    u8 *section;
};

// What a chunk's threads share.
struct Shared {
    // Magnitudes of the candidates, then the selected values by ascending index.
    unsigned keys[CHUNK_ELEMENTS];
    u16 indices[CHUNK_ELEMENTS];
    // One bit per element: those selected; and how many are set before each word.
    unsigned chosen[CHUNK_ELEMENTS / 32], before[CHUNK_ELEMENTS / 32];
    u64 costs[THREADS];
    // Codes, then indices, as they will be in the section.
    unsigned codes[CHUNK_ELEMENTS * 2 / 32], packed[CHUNK_ELEMENTS * PACKED_BITS / 32];
    unsigned largest[THREADS / WARP];
    u64 least[THREADS / WARP];
    unsigned candidates;
};

// The best of the threads' numbers: `better` says which of two. Uses `of_warps`, which nothing may use at the same time.
template <class T, class F> __device__ inline T block_best(T mine, T *of_warps, F better) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        mine = better(mine, __shfl_xor_sync(ALL_LANES, mine, distance));
    }
    if (threadIdx.x % WARP == 0) {
        of_warps[threadIdx.x / WARP] = mine;
    }
    __syncthreads();
    for (unsigned warp = 0; warp < THREADS / WARP; warp++) {
        mine = better(mine, of_warps[warp]);
    }
    return mine;
}

__device__ inline unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }
__device__ inline u64 lesser(u64 a, u64 b) { return a < b ? a : b; }

// A key that at least k keys reach, from each thread's largest; zero for k beyond half the threads.
__device__ inline unsigned lower_bound(unsigned largest_of_mine, unsigned k) {
    unsigned low = 0, high = INFINITE;
    while (k <= THREADS / 2 && high - low > 1) {
        const unsigned middle = low + (high - low) / 2;
        const unsigned count = __syncthreads_count(largest_of_mine >= middle);
        if (count < k) {
            high = middle;
        } else {
            low = middle;
            if (count <= k + k / 8) {
                break;
            }
        }
    }
    return low;
}

// Keys of at least `cut` are selected; of those one below it, `ties` with the lowest indices.
struct Cut {
    unsigned key;
    unsigned ties;
};

__device__ inline unsigned count_reaching(unsigned middle, unsigned candidates, const Shared &shared) {
    unsigned count = 0;
    for (unsigned first = 0; first < candidates; first += THREADS) {
        const unsigned i = first + threadIdx.x;
        count += __syncthreads_count(i < candidates && shared.keys[i] >= middle);
    }
    return count;
}

// Bisects the candidates, of which there are at least k, none below `low` and none above `largest`.
__device__ inline Cut find_cut(unsigned low, unsigned largest, unsigned candidates, unsigned k, const Shared &shared) {
    unsigned high = largest + 1, above = 0;
    if (candidates == k) {
        return {low, 0};
    }
    while (high - low > 1) {
        const unsigned middle = low + (high - low) / 2;
        const unsigned count = count_reaching(middle, candidates, shared);
        if (count == k) {
            return {middle, 0};
        }
        if (count < k) {
            high = middle, above = count;
        } else {
            low = middle;
        }
    }
    return {high, k - above};
}

// Sets `before` for the bitmap in `chosen`, which must be complete.
__device__ inline void count_before(Shared &shared) {
    constexpr unsigned WORDS = CHUNK_ELEMENTS / 32 / WARP;
    __syncthreads();
    if (threadIdx.x < WARP) {
        unsigned mine = 0;
        for (unsigned i = 0; i < WORDS; i++) {
            mine += __popc(shared.chosen[WORDS * threadIdx.x + i]);
        }
        unsigned sum = mine;
        for (unsigned distance = 1; distance < WARP; distance *= 2) {
            const unsigned other = __shfl_up_sync(ALL_LANES, sum, distance);
            sum += threadIdx.x >= distance ? other : 0;
        }
        sum -= mine;
        for (unsigned i = 0; i < WORDS; i++) {
            shared.before[WORDS * threadIdx.x + i] = sum;
            sum += __popc(shared.chosen[WORDS * threadIdx.x + i]);
        }
    }
    __syncthreads();
}

// How many elements before this one are chosen.
__device__ inline unsigned rank(unsigned index, const Shared &shared) {
    return shared.before[index / 32] + __popc(shared.chosen[index / 32] & ((1u << index % 32) - 1));
}

// Calls `each(i)` for the set bits i of a thread's mask of elements.
template <class F> __device__ inline void for_each(unsigned mask, F each) {
    for (; mask; mask &= mask - 1) {
        each(__ffs(mask) - 1);
    }
}

__device__ inline void clear_chosen(Shared &shared) {
    for (unsigned i = threadIdx.x; i < CHUNK_ELEMENTS / 32; i += THREADS) {
        shared.chosen[i] = 0;
    }
}

__device__ inline void choose(unsigned mask, Shared &shared) {
    for_each(mask, [&](unsigned i) { atomicOr(&shared.chosen[index_of_mine(i) / 32], 1u << index_of_mine(i) % 32); });
}

// Those of this thread's elements that are among the k of largest magnitude, of equal ones those with the lowest indices.
__device__ inline unsigned select(const float *values, unsigned k, unsigned largest, unsigned largest_of_mine, Shared &shared) {
    const unsigned bound = lower_bound(largest_of_mine, k);
    unsigned candidates = 0;
    for (unsigned i = 0; i < MINE; i++) {
        candidates |= (unsigned)(key(values[i]) >= bound) << i;
    }
    if (candidates) {
        unsigned to = atomicAdd(&shared.candidates, __popc(candidates));
        for (unsigned i = 0; i < MINE; i++) {
            if (candidates >> i & 1) {
                shared.keys[to++] = key(values[i]);
            }
        }
    }
    __syncthreads();
    const Cut cut = find_cut(bound, largest, shared.candidates, k, shared);
    unsigned chosen = 0, tied = 0;
    for (unsigned i = 0; i < MINE; i++) {
        chosen |= (unsigned)(key(values[i]) >= cut.key) << i;
        tied |= (unsigned)(key(values[i]) + 1 == cut.key) << i;
    }
    if (cut.ties > 0) {
        choose(tied, shared);
        count_before(shared);
        for_each(tied, [&](unsigned i) { chosen |= (unsigned)(rank(index_of_mine(i), shared) < cut.ties) << i; });
        __syncthreads();
        clear_chosen(shared);
        __syncthreads();
    }
    return chosen;
}

// Scale codes, as in `compression`.
constexpr int LOWEST_OCTAVE = -20, HIGHEST_OCTAVE = 4, FIXED_BITS = 11;
constexpr unsigned CODES_OF_OCTAVE = 10;
// Candidates of `sign2`: a pair of zeros, then the pairs of six octaves.
constexpr unsigned PAIRS = 61;
constexpr u64 NEVER = ~0ull;

// The floor of log2 of a magnitude, at most the highest octave; below the lowest one for zero and subnormals.
__device__ inline int octave_of(unsigned key) {
    const int octave = (int)(key >> 23) - 127;
    return octave < HIGHEST_OCTAVE ? octave : HIGHEST_OCTAVE;
}

// A magnitude in fixed point, rounded down: `unit` gives the octave of the largest one 12 bits.
__device__ inline int fixed_point(float magnitude, float unit) { return (int)__fmul_rn(magnitude, unit); }

// A selected value's, at most what 12 bits hold.
__device__ inline int fixed_value(unsigned j, float unit, const Shared &shared) {
    const float magnitude = __uint_as_float(shared.keys[j] & 0x7FFFFFFF);
    return (int)fminf(__fmul_rn(magnitude, unit), (float)((2 << FIXED_BITS) - 1));
}

// The squared error of a scale code's pair of magnitudes over this thread's share of the selected values.
__device__ inline u64 pair_cost(const float *pair, unsigned share, unsigned shares, unsigned k, float unit, const Shared &shared) {
    const int low = fixed_point(pair[0], unit), high = fixed_point(pair[1], unit);
    u64 cost = 0;
    for (unsigned j = share; j < k; j += shares) {
        const int fixed = fixed_value(j, unit, shared), to_low = abs(fixed - low), to_high = abs(fixed - high);
        const int error = to_low < to_high ? to_low : to_high;
        cost += (unsigned)(error * error);
    }
    return cost;
}

// The scale code of `sign2` for the selected values: least squared error, the lowest code among equals. `table` is what the codes decode to.
__device__ inline unsigned sign2_scale(int top, float unit, unsigned k, const float *table, Shared &shared) {
    constexpr unsigned SHARES = THREADS / 64;
    const unsigned candidate = threadIdx.x % 64;
    const int code = candidate == 0 ? 0 : (top - 5 - LOWEST_OCTAVE) * (int)CODES_OF_OCTAVE + (int)candidate;
    const bool is_one = candidate < PAIRS && (candidate == 0 || code > 0);
    if (is_one) {
        shared.costs[threadIdx.x] = pair_cost(table + 4 * code, threadIdx.x / 64, SHARES, k, unit, shared);
    }
    __syncthreads();
    u64 cost = NEVER;
    if (threadIdx.x < 64 && is_one) {
        cost = 0;
        for (unsigned share = 0; share < SHARES; share++) {
            cost += shared.costs[64 * share + candidate];
        }
        cost = cost << 8 | code;
    }
    return block_best(cost, shared.least, lesser) & 0xFF;
}

// The scale code of `sign1`: the magnitude nearest to the mean, the lowest code among equals.
__device__ inline unsigned sign1_scale(int top, float unit, unsigned k, const float *table, Shared &shared) {
    u64 part = 0;
    for (unsigned j = threadIdx.x; j < k; j += THREADS) {
        part += fixed_value(j, unit, shared);
    }
    shared.costs[threadIdx.x] = part;
    __syncthreads();
    long long sum = 0;
    for (unsigned i = 0; i < at_most(k, THREADS); i++) {
        sum += shared.costs[i];
    }
    const int code = threadIdx.x, octave = (code - 1) / (int)CODES_OF_OCTAVE + LOWEST_OCTAVE;
    u64 cost = NEVER;
    if (code == 0 || (octave <= top && octave >= top - FIXED_BITS)) {
        const long long error = (long long)k * fixed_point(table[4 * code], unit) - sum;
        cost = (u64)(error < 0 ? -error : error) << 8 | code;
    }
    return block_best(cost, shared.least, lesser) & 0xFF;
}

// What the value codes of a chunk stand for.
struct Coder {
    unsigned quantizer;
    float low, high, middle;

    __device__ unsigned code(float value) const {
        if (quantizer == SIGN1) {
            return low != 0.0f && value < 0.0f;
        }
        const unsigned is_high = high != 0.0f && fabsf(value) >= middle;
        return is_high | (unsigned)(value < 0.0f && (is_high ? high : low) != 0.0f) << 1;
    }

    __device__ float decode(unsigned code) const {
        if (quantizer == SIGN1) {
            return code ? -low : low;
        }
        const float magnitude = code & 1 ? high : low;
        return code & 2 ? -magnitude : magnitude;
    }
};

// Sets some bits of a stream that holds zeros there.
__device__ inline void put(unsigned *words, unsigned at, unsigned value) {
    const u64 shifted = (u64)value << at % 32;
    if ((unsigned)shifted) {
        atomicOr(&words[at / 32], (unsigned)shifted);
    }
    if (shifted >> 32) {
        atomicOr(&words[at / 32 + 1], (unsigned)(shifted >> 32));
    }
}

// Value j of the chunk, into the streams of codes and indices.
__device__ inline void put_value(const Part &part, const Coding &coding, unsigned j, unsigned index, unsigned code, Shared &shared) {
    put(shared.codes, code_bits(part) * j, code);
    put(shared.packed, coding.index_bits * j, index & ((1u << coding.index_bits) - 1));
    if (part.select == ELIAS_FANO) {
        put(shared.packed, 8 * ceil_div(coding.k * coding.index_bits, 8) + (index >> coding.index_bits) + j, 1);
    }
}

__device__ inline void write_bytes(const unsigned *from, u8 *to, unsigned bytes) {
    for (unsigned i = threadIdx.x; i < bytes; i += THREADS) {
        to[i] = ((const u8 *)from)[i];
    }
}

// The values of a chunk in registers, `mask` of them selected, become its scale code, codes and indices; `values` becomes the next error feedback.
__device__ inline void quantize(const Part &part, const Chunk &chunk, unsigned largest, unsigned mask, const float *tables, u8 *section, float *values,
                                Shared &shared) {
    const Coding coding = chunk.coding;
    const unsigned k = coding.k;
    for (unsigned i = threadIdx.x; i < ceil_div(coding.code_bytes, 4); i += THREADS) {
        shared.codes[i] = 0;
    }
    for (unsigned i = threadIdx.x; i < ceil_div(coding.index_bytes, 4); i += THREADS) {
        shared.packed[i] = 0;
    }
    choose(mask, shared);
    count_before(shared);
    for (unsigned i = 0; i < MINE; i++) {
        if (mask >> i & 1) {
            const unsigned j = rank(index_of_mine(i), shared);
            shared.keys[j] = __float_as_uint(values[i]);
            shared.indices[j] = index_of_mine(i);
        }
    }
    __syncthreads();
    const int top = octave_of(largest);
    const float *table = tables + 1024 * part.quantizer;
    unsigned scale = 0;
    if (top >= LOWEST_OCTAVE) {
        const float unit = __uint_as_float((unsigned)(FIXED_BITS - top + 127) << 23);
        scale = part.quantizer == SIGN1 ? sign1_scale(top, unit, k, table, shared) : sign2_scale(top, unit, k, table, shared);
    }
    const float low = table[4 * scale], high = part.quantizer == SIGN1 ? 0.0f : table[4 * scale + 1];
    const Coder coder = {part.quantizer, low, high, __fmul_rn(__fadd_rn(low, high), 0.5f)};
    for (unsigned i = 0; i < MINE; i++) {
        if (mask >> i & 1) {
            values[i] = __fsub_rn(values[i], coder.decode(coder.code(values[i])));
        }
    }
    for (unsigned j = threadIdx.x; j < k; j += THREADS) {
        const unsigned index = scale == 0 ? j : shared.indices[j];
        put_value(part, coding, j, index, coder.code(__uint_as_float(shared.keys[j])), shared);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        section[part.scales + chunk.number] = scale;
    }
    write_bytes(shared.codes, section + codes_at(part, chunk), coding.code_bytes);
    write_bytes(shared.packed, section + indices_at(part, chunk), coding.index_bytes);
}

// False if a is not finite; then nothing is written.
template <bool AT_ONCE, class T, class E>
__device__ inline bool encode_chunk(const Job<T, E> &job, const Chunk &chunk, float beta, const float *tables, Shared &shared) {
    float before[MINE], after[MINE], values[MINE];
    load_all<AT_ONCE>(job.before, chunk, before);
    load_all<AT_ONCE>(job.after, chunk, after);
    load_all<AT_ONCE>(job.feedback, chunk, values);
    // While these are on their way.
    clear_chosen(shared);
    if (threadIdx.x == 0) {
        shared.candidates = 0;
    }
    unsigned largest_of_mine = 0;
    for (unsigned i = 0; i < MINE; i++) {
        values[i] = __fadd_rn(__fmul_rn(beta, values[i]), __fsub_rn(before[i], after[i]));
        largest_of_mine = larger(largest_of_mine, key(values[i]));
    }
    const unsigned largest = block_best(largest_of_mine, shared.largest, larger);
    // A next error feedback in bf16 must be finite too.
    if (largest >= (sizeof(E) == 2 ? ROUNDS_TO_INFINITE : INFINITE)) {
        return false;
    }
    const bool is_zero = octave_of(largest) < LOWEST_OCTAVE;
    const unsigned mask = is_zero ? 0 : select(values, chunk.coding.k, largest, largest_of_mine, shared);
    quantize(job.part, chunk, largest, mask, tables, job.section, values, shared);
    store_all<AT_ONCE>(values, job.next_feedback, chunk);
    return true;
}

template <class T, class E>
__device__ inline void encode(const Job<T, E> *jobs, const unsigned *owner, float beta, const float *tables, unsigned *fault) {
    __shared__ Shared shared;
    const Job<T, E> &job = jobs[owner[blockIdx.x]];
    const Chunk chunk = locate(job.part);
    const bool at_once = is_full(chunk) && is_aligned(job.before + chunk.start) && is_aligned(job.after + chunk.start) &&
                         is_aligned(job.feedback + chunk.start) && is_aligned(job.next_feedback + chunk.start);
    const bool is_finite = at_once ? encode_chunk<true>(job, chunk, beta, tables, shared) : encode_chunk<false>(job, chunk, beta, tables, shared);
    if (!is_finite && threadIdx.x == 0) {
        atomicMin(fault, owner[blockIdx.x]);
    }
}

// jobs: the parts. owner: the part of each block. tables: what each (quantizer, scale code, value code) decodes to, 2 * 256 * 4. fault: the lowest number
// of a part where a is not finite, if there is one; such a chunk's section and error feedback are left alone.
#define ENCODE(NAME, T, E)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                                                     \
    NAME(const Job<T, E> *jobs, const unsigned *owner, float beta, const float *tables, unsigned *fault) {                                       \
        encode(jobs, owner, beta, tables, fault);                                                                                                \
    }
// By the elements of θ, then of e.
ENCODE(encode_f32_f32, float, float)
ENCODE(encode_f32_bf16, float, bf16)
ENCODE(encode_bf16_f32, bf16, float)
ENCODE(encode_bf16_bf16, bf16, bf16)
