// From θ before and after the inner steps and error feedback e to a payload's sections and the next e, in one pass over the elements:
// a = beta * e + (before - after), top-k of each chunk, its scale, codes and indices, e = a - sent. The same bits as `compression::encode`.
//
// A block holds its chunk in shared memory. What is selected is found by counting: k of the threads' largest magnitudes bound the k-th largest of all from
// below, so that few candidates are left; among those the threshold is found exactly. Both are one warp's work, which needs no
// barrier of the block, while other blocks have the multiprocessor. Counts and bitmaps do not depend on the order of threads.

// A part of the tensors, and where its section lies.
template <class T, class E> struct Job {
    Part part;
    const T *before, *after;
    const E *feedback;
    // May be `feedback`.
    E *next_feedback;
    u8 *section;
};

// Scale codes, as in `compression`.
constexpr int LOWEST_OCTAVE = -20, HIGHEST_OCTAVE = 4, FIXED_BITS = 11;
constexpr unsigned CODES_OF_OCTAVE = 10;
// Candidates of `sign2`: a pair of zeros, then the pairs of six octaves.
constexpr unsigned PAIRS = 61;
constexpr u64 NEVER = ~0ull;

// Bitmaps and streams of numbers.
struct alignas(16) Bits {
    // One bit per element: the candidates.
    unsigned marked[CHUNK_ELEMENTS / 32];
    // Codes and indices as they will be in the section.
    unsigned codes[CHUNK_ELEMENTS * 2 / 32], packed[CHUNK_ELEMENTS * PACKED_BITS / 32];
};

// What a chunk's threads share.
struct alignas(16) Shared {
    // a, then the next e.
    float values[CHUNK_ELEMENTS];
    // Of the candidates, then of those selected, in ascending order; and twice what those are in fixed point.
    u16 indices[CHUNK_ELEMENTS], doubled[CHUNK_ELEMENTS];
    // Bits that are zero at first.
    Bits bits;
    // Keys: each thread's largest, the largest of all, and one that at least k reach.
    unsigned largest_of[THREADS], largest, bound;
    unsigned candidates;
    // Of the selected in fixed point.
    unsigned sum;
    u64 least[THREADS / WARP];
};

// Whether this is the warp that selects: another one in the next block, so that all schedulers of a multiprocessor have some.
__device__ inline bool is_selecting_warp() { return threadIdx.x / WARP == blockIdx.x % (THREADS / WARP); }

// Keys of at least `key` are selected; of those one below it, `ties` with the lowest indices.
struct Cut {
    unsigned key;
    unsigned ties;
};

// Cuts k keys off, or up to `slack` more. At least k of them reach `low`, fewer reach `high`; `count` tells how many reach a key.
template <class F> __device__ inline Cut find_cut(unsigned low, unsigned high, unsigned k, unsigned slack, F count) {
    unsigned above = 0;
    while (high - low > 1) {
        const unsigned middle = low + (high - low) / 2, reaching = count(middle);
        if (reaching < k) {
            high = middle, above = reaching;
        } else if (low = middle, reaching <= k + slack) {
            return {middle, 0};
        }
    }
    return {high, k - above};
}

// As many keys as a block has threads, held by one warp.
struct Keys {
    unsigned of_lane[THREADS / WARP];

    template <class F> __device__ Keys(F key_of) {
        for (unsigned i = 0; i < THREADS / WARP; i++) {
            of_lane[i] = key_of(WARP * i + lane());
        }
    }

    __device__ unsigned reaching(unsigned key) const {
        unsigned count = 0;
        for (unsigned i = 0; i < THREADS / WARP; i++) {
            count += of_lane[i] >= key;
        }
        return __reduce_add_sync(ALL_LANES, count);
    }
};

// By one warp: sets `largest`, and `bound` from each thread's largest; zero for k beyond their number.
__device__ inline void find_bound(unsigned k, Shared &shared) {
    const Keys keys([&](unsigned i) { return shared.largest_of[i]; });
    unsigned least = INFINITE, largest = 0;
    for (unsigned i = 0; i < THREADS / WARP; i++) {
        least = at_most(least, keys.of_lane[i]);
        largest = larger(largest, keys.of_lane[i]);
    }
    least = __reduce_min_sync(ALL_LANES, least);
    largest = __reduce_max_sync(ALL_LANES, largest);
    unsigned bound = 0;
    if (k <= THREADS) {
        const Cut cut = find_cut(least, largest + 1, k, k / 8, [&](unsigned key) { return keys.reaching(key); });
        bound = cut.key - (cut.ties > 0);
    }
    if (lane() == 0) {
        shared.largest = largest;
        shared.bound = bound;
    }
}

// Marks those of this thread's elements that reach the bound.
__device__ inline void mark_candidates(Shared &shared) {
    const float bound = __uint_as_float(shared.bound);
    unsigned mask = 0;
    for (unsigned group = 0; group < GROUPS; group++) {
        const float4 four = *(const float4 *)(shared.values + first_of(group));
        const float values[GROUP] = {four.x, four.y, four.z, four.w};
        for (unsigned i = 0; i < GROUP; i++) {
            mask |= (unsigned)(fabsf(values[i]) >= bound) << (GROUP * group + i);
        }
    }
    if (mask) {
        atomicAdd(&shared.candidates, __popc(mask));
    }
    for (; mask; mask &= mask - 1) {
        const unsigned index = index_of_mine(__ffs(mask) - 1);
        atomicOr(&shared.bits.marked[index / 32], 1u << index % 32);
    }
}

// By one warp: the sum of the lanes' numbers before this one.
__device__ inline unsigned sum_before(unsigned mine) {
    unsigned sum = mine;
    for (unsigned distance = 1; distance < WARP; distance *= 2) {
        const unsigned other = __shfl_up_sync(ALL_LANES, sum, distance);
        sum += lane() >= distance ? other : 0;
    }
    return sum - mine;
}

// By one warp: sets the candidates' `indices`.
__device__ inline void list_candidates(Shared &shared) {
    constexpr unsigned WORDS = CHUNK_ELEMENTS / 32 / WARP;
    unsigned words[WORDS], mine = 0;
    for (unsigned i = 0; i < WORDS; i++) {
        words[i] = shared.bits.marked[WORDS * lane() + i];
        mine += __popc(words[i]);
    }
    unsigned to = sum_before(mine);
    for (unsigned i = 0; i < WORDS; i++) {
        for (unsigned word = words[i]; word; word &= word - 1) {
            shared.indices[to++] = 32 * (WORDS * lane() + i) + __ffs(word) - 1;
        }
    }
}

// By all threads.
__device__ inline unsigned values_reaching(unsigned least, const Shared &shared) {
    unsigned count = 0;
    for (unsigned first = 0; first < CHUNK_ELEMENTS; first += THREADS) {
        count += __syncthreads_count(key(shared.values[first + threadIdx.x]) >= least);
    }
    return count;
}

// A selected value's magnitude in fixed point, at most what 12 bits hold.
__device__ inline unsigned fixed_value(float value, float unit) {
    return (unsigned)fminf(__fmul_rn(fabsf(value), unit), (float)((2 << FIXED_BITS) - 1));
}

// By one warp: of the candidates' `indices` those selected are left; sets `doubled` and `sum`.
__device__ inline void keep_selected(const Cut &cut, float unit, Shared &shared) {
    const unsigned before_me = (1u << lane()) - 1;
    unsigned kept = 0, ties = 0, sum = 0;
    for (unsigned first = 0; first < shared.candidates; first += WARP) {
        const bool is_one = first + lane() < shared.candidates;
        const unsigned index = is_one ? shared.indices[first + lane()] : 0;
        const float value = shared.values[index];
        const unsigned tied = __ballot_sync(ALL_LANES, is_one && key(value) + 1 == cut.key);
        const bool is_early = tied >> lane() & 1 && ties + __popc(tied & before_me) < cut.ties;
        const bool is_selected = is_one && (key(value) >= cut.key || is_early);
        const unsigned selected = __ballot_sync(ALL_LANES, is_selected);
        if (is_selected) {
            const unsigned j = kept + __popc(selected & before_me), fixed = fixed_value(value, unit);
            shared.indices[j] = index;
            shared.doubled[j] = 2 * fixed;
            sum += fixed;
        }
        ties += __popc(tied);
        kept += __popc(selected);
    }
    sum = __reduce_add_sync(ALL_LANES, sum);
    if (lane() == 0) {
        shared.sum = sum;
    }
}

// Sets `indices`, `doubled` and `sum` for the k values of largest magnitude, of equal ones those with the lowest indices.
__device__ inline void select(unsigned k, float unit, Shared &shared) {
    mark_candidates(shared);
    __syncthreads();
    const unsigned low = shared.bound, high = shared.largest + 1, candidates = shared.candidates;
    Cut cut = {low, 0};
    if (candidates > k && candidates > THREADS) {
        cut = find_cut(low, high, k, 0, [&](unsigned key) { return values_reaching(key, shared); });
    }
    if (is_selecting_warp()) {
        list_candidates(shared);
        __syncwarp();
        if (candidates > k && candidates <= THREADS) {
            const Keys keys([&](unsigned i) { return i < candidates ? key(shared.values[shared.indices[i]]) : 0; });
            cut = find_cut(low, high, k, 0, [&](unsigned key) { return keys.reaching(key); });
        }
        keep_selected(cut, unit, shared);
    }
    __syncthreads();
}

// The floor of log2 of a magnitude, at most the highest octave; below the lowest one for zero and subnormals.
__device__ inline int octave_of(unsigned key) {
    const int octave = (int)(key >> 23) - 127;
    return octave < HIGHEST_OCTAVE ? octave : HIGHEST_OCTAVE;
}

// Gives the largest magnitude, of this octave, 12 bits.
__device__ inline float unit_of(int octave) { return __uint_as_float((unsigned)(FIXED_BITS - octave + 127) << 23); }

// A magnitude in fixed point, rounded down.
__device__ inline int fixed_point(float magnitude, float unit) { return (int)__fmul_rn(magnitude, unit); }

// By one warp: the least of its lanes' numbers.
__device__ inline u64 least_of_warp(u64 mine) {
    const unsigned high = __reduce_min_sync(ALL_LANES, (unsigned)(mine >> 32));
    return (u64)high << 32 | __reduce_min_sync(ALL_LANES, (unsigned)(mine >> 32) == high ? (unsigned)mine : ALL_LANES);
}

// This thread's scale code of `sign2`, in the lowest byte, below what it costs: the squared error of the selected values, less what all codes have in
// common. The least is to be taken, which is the lowest code among equals. `table` is what the codes decode to.
//
// For magnitudes l and h, a value f is nearer to h if 2f > l + h, and (f - l)^2 - (f - h)^2 = (h - l) (2f - l - h). So the sum of the squared errors is
// that of (f - l)^2 less h - l times the sum of what 2f exceeds l + h by.
__device__ inline u64 sign2_cost(int top, float unit, unsigned k, const float *table, const Shared &shared) {
    // More than any cost is below zero.
    constexpr long long ABOVE_ZERO = 1ll << 40;
    const int code = threadIdx.x == 0 ? 0 : (top - 5 - LOWEST_OCTAVE) * (int)CODES_OF_OCTAVE + (int)threadIdx.x;
    if (threadIdx.x >= PAIRS || code < 0 || (code == 0 && threadIdx.x > 0)) {
        return NEVER;
    }
    const int low = fixed_point(table[4 * code], unit), high = fixed_point(table[4 * code + 1], unit);
    unsigned excess = 0;
    for (unsigned j = 0; j < k; j++) {
        const int over = shared.doubled[j] - (low + high);
        excess += over > 0 ? over : 0;
    }
    const long long cost = low * ((long long)k * low - 2ll * shared.sum) - (long long)(high - low) * excess;
    return (u64)(ABOVE_ZERO + cost) << 8 | code;
}

// The same of `sign1`: the distance of its magnitude from the mean, times k.
__device__ inline u64 sign1_cost(int top, float unit, unsigned k, const float *table, const Shared &shared) {
    const int code = threadIdx.x, octave = (code - 1) / (int)CODES_OF_OCTAVE + LOWEST_OCTAVE;
    u64 cost = NEVER;
    if (code == 0 || (octave <= top && octave >= top - FIXED_BITS)) {
        const long long error = (long long)k * fixed_point(table[4 * code], unit) - shared.sum;
        cost = (u64)(error < 0 ? -error : error) << 8 | code;
    }
    return cost;
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
    put(shared.bits.codes, code_bits(part) * j, code);
    put(shared.bits.packed, coding.index_bits * j, index & ((1u << coding.index_bits) - 1));
    if (part.select == ELIAS_FANO) {
        put(shared.bits.packed, 8 * ceil_div(coding.k * coding.index_bits, 8) + (index >> coding.index_bits) + j, 1);
    }
}

__device__ inline void clear(Bits &bits) {
    for (unsigned i = threadIdx.x; i < sizeof(Bits) / sizeof(uint4); i += THREADS) {
        ((uint4 *)&bits)[i] = {0, 0, 0, 0};
    }
}

__device__ inline void write_bytes(const unsigned *from, u8 *to, unsigned bytes) {
    for (unsigned i = threadIdx.x; i < bytes; i += THREADS) {
        to[i] = ((const u8 *)from)[i];
    }
}

// The selected values become codes and indices; what is left of them is their next error feedback. A chunk that is sent as zeros has the lowest indices.
__device__ inline void quantize(const Part &part, const Coding &coding, unsigned scale, const float *table, Shared &shared) {
    const float low = table[4 * scale], high = part.quantizer == SIGN1 ? 0.0f : table[4 * scale + 1];
    const Coder coder = {part.quantizer, low, high, __fmul_rn(__fadd_rn(low, high), 0.5f)};
    for (unsigned j = threadIdx.x; j < coding.k; j += THREADS) {
        if (scale == 0) {
            put_value(part, coding, j, j, 0, shared);
        } else {
            const unsigned index = shared.indices[j];
            const float value = shared.values[index];
            const unsigned code = coder.code(value);
            shared.values[index] = __fsub_rn(value, coder.decode(code));
            put_value(part, coding, j, index, code, shared);
        }
    }
}

// Groups of a thread that are loaded at once; for more there are no registers if five blocks share a multiprocessor.
constexpr unsigned ABREAST = 2;

// Sets a and each thread's largest key. All of the shared memory is ready for the chunk after the next barrier.
template <bool AT_ONCE, class T, class E>
__device__ inline void begin(const Job<T, E> &job, const Chunk &chunk, float beta, Shared &shared) {
    clear(shared.bits);
    if (threadIdx.x == 0) {
        shared.candidates = 0;
    }
    unsigned largest = 0;
    for (unsigned first = 0; first < GROUPS; first += ABREAST) {
        float before[ABREAST][GROUP], after[ABREAST][GROUP], values[ABREAST][GROUP];
        for (unsigned i = 0; i < ABREAST; i++) {
            load<AT_ONCE>(job.before, chunk, first + i, before[i]);
            load<AT_ONCE>(job.after, chunk, first + i, after[i]);
            load<AT_ONCE>(job.feedback, chunk, first + i, values[i]);
        }
        for (unsigned i = 0; i < ABREAST; i++) {
            for (unsigned j = 0; j < GROUP; j++) {
                values[i][j] = __fadd_rn(__fmul_rn(beta, values[i][j]), __fsub_rn(before[i][j], after[i][j]));
                largest = larger(largest, key(values[i][j]));
            }
            *(float4 *)(shared.values + first_of(first + i)) = float4{values[i][0], values[i][1], values[i][2], values[i][3]};
        }
    }
    shared.largest_of[threadIdx.x] = largest;
}

// False if a is not finite; then nothing is written.
template <bool AT_ONCE, class T, class E>
__device__ inline bool encode_chunk(const Job<T, E> &job, const Chunk &chunk, float beta, const float *tables, Shared &shared) {
    const Part &part = job.part;
    const Coding coding = chunk.coding;
    const float *table = tables + 1024 * part.quantizer;
    begin<AT_ONCE>(job, chunk, beta, shared);
    __syncthreads();
    if (is_selecting_warp()) {
        find_bound(coding.k, shared);
    }
    __syncthreads();
    // A next error feedback in bf16 must be finite too.
    if (shared.largest >= (sizeof(E) == 2 ? ROUNDS_TO_INFINITE : INFINITE)) {
        return false;
    }
    const int top = octave_of(shared.largest);
    const bool is_zero = top < LOWEST_OCTAVE;
    if (!is_zero) {
        const float unit = unit_of(top);
        select(coding.k, unit, shared);
        const u64 cost = part.quantizer == SIGN1 ? sign1_cost(top, unit, coding.k, table, shared) : sign2_cost(top, unit, coding.k, table, shared);
        const u64 least = least_of_warp(cost);
        if (lane() == 0) {
            shared.least[threadIdx.x / WARP] = least;
        }
        __syncthreads();
    }
    // Warps that have a value.
    if (threadIdx.x / WARP * WARP < coding.k) {
        const unsigned scale = is_zero ? 0 : least_of_warp(shared.least[threadIdx.x % (THREADS / WARP)]) & 0xFF;
        quantize(part, coding, scale, table, shared);
        if (threadIdx.x == 0) {
            job.section[part.scales + chunk.number] = scale;
        }
    }
    __syncthreads();
    if (threadIdx.x < larger(coding.code_bytes, coding.index_bytes)) {
        write_bytes(shared.bits.codes, job.section + codes_at(part, chunk), coding.code_bytes);
        write_bytes(shared.bits.packed, job.section + indices_at(part, chunk), coding.index_bytes);
    }
    for (unsigned group = 0; group < GROUPS; group++) {
        store<AT_ONCE>(shared.values + first_of(group), job.next_feedback, chunk, group);
    }
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
    extern "C" __global__ void __launch_bounds__(THREADS, 5)                                                                                     \
    NAME(const Job<T, E> *jobs, const unsigned *owner, float beta, const float *tables, unsigned *fault) {                                       \
        encode(jobs, owner, beta, tables, fault);                                                                                                \
    }
// By the elements of θ, then of e.
ENCODE(encode_f32_f32, float, float)
ENCODE(encode_f32_bf16, float, bf16)
ENCODE(encode_bf16_f32, bf16, float)
ENCODE(encode_bf16_bf16, bf16, bf16)
