// From θ before and after the inner steps and error feedback e to a payload's sections and the next e, in one pass over the elements:
// a = beta * e + (before - after), top-k of each chunk, its scale, codes and indices, e = a - sent. The same bits as `compression::encode`.
//
// A block holds its chunk in shared memory. All of it loads and stores; what lies between is one warp's work, which needs no barrier, while other blocks have
// the multiprocessor. What is selected is found by counting: k of the threads' largest magnitudes bound the k-th largest of all from below, so that few
// candidates are left; among those the threshold is found exactly. Counts and bitmaps do not depend on the order of threads.

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
// Those of a lane.
constexpr unsigned PAIRS_OF_LANE = 2;
// Numbers of 16 bits that are read at once.
constexpr unsigned EIGHT = 8;
// Words of a bitmap of a chunk, and of a lane.
constexpr unsigned MARK_WORDS = CHUNK_ELEMENTS / 32, WORDS_OF_LANE = MARK_WORDS / WARP;
// Selected values for which shared memory leaves room for many blocks.
constexpr unsigned FEW = 512;

// Codes and indices of at most MOST values as they will be in the section.
template <unsigned MOST> struct Streams {
    unsigned codes[MOST * 2 / 32], indices[MOST * PACKED_BITS / 32];
};

// What a chunk's threads share; at most MOST of its values are selected.
template <unsigned MOST> struct alignas(16) Shared {
    // a, then the next e.
    float values[CHUNK_ELEMENTS];
    // Keys: each thread's largest, the largest of all.
    unsigned largest_of[ENCODE_THREADS], largest;
    // The rest is the selecting warp's. Threads whose largest may be selected.
    u16 reaching[ENCODE_THREADS];
    // One bit per element: the candidates.
    unsigned marked[MARK_WORDS];
    // Of the candidates, then of those selected, in ascending order.
    u16 indices[MOST];
    union alignas(16) {
        // Twice what the selected are in fixed point; zeros up to a multiple of EIGHT.
        u16 doubled[MOST];
        Streams<MOST> streams;
    };
};

// Whether this is the warp that selects: another one in the next block, so that all schedulers of a multiprocessor have some.
__device__ inline bool is_selecting_warp() { return threadIdx.x / WARP == blockIdx.x % (ENCODE_THREADS / WARP); }

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
    unsigned of_lane[ENCODE_THREADS / WARP];

    template <class F> __device__ Keys(F key_of) {
        for (unsigned i = 0; i < ENCODE_THREADS / WARP; i++) {
            of_lane[i] = key_of(WARP * i + lane());
        }
    }

    __device__ unsigned reaching(unsigned key) const {
        unsigned count = 0;
        for (unsigned i = 0; i < ENCODE_THREADS / WARP; i++) {
            count += of_lane[i] >= key;
        }
        return __reduce_add_sync(ALL_LANES, count);
    }
};

// By one warp: the key that at least k of the elements reach, from each thread's largest; zero for k beyond their number. Sets `largest`.
template <unsigned MOST> __device__ inline unsigned find_bound(const Keys &keys, unsigned k, Shared<MOST> &shared) {
    unsigned least = INFINITE, largest = 0;
    for (unsigned i = 0; i < ENCODE_THREADS / WARP; i++) {
        least = at_most(least, keys.of_lane[i]);
        largest = larger(largest, keys.of_lane[i]);
    }
    least = __reduce_min_sync(ALL_LANES, least);
    largest = __reduce_max_sync(ALL_LANES, largest);
    if (lane() == 0) {
        shared.largest = largest;
    }
    if (k > ENCODE_THREADS) {
        return 0;
    }
    const Cut cut = find_cut(least, largest + 1, k, k / 8, [&](unsigned key) { return keys.reaching(key); });
    return cut.key - (cut.ties > 0);
}

// By one warp: marks the elements that reach the bound, which only some threads have.
template <unsigned MOST> __device__ inline void mark_candidates(const Keys &keys, unsigned bound, Shared<MOST> &shared) {
    const unsigned before_me = (1u << lane()) - 1;
    unsigned count = 0;
    for (unsigned i = 0; i < ENCODE_THREADS / WARP; i++) {
        const unsigned reaching = __ballot_sync(ALL_LANES, keys.of_lane[i] >= bound);
        if (reaching >> lane() & 1) {
            shared.reaching[count + __popc(reaching & before_me)] = WARP * i + lane();
        }
        count += __popc(reaching);
    }
    for (unsigned i = 0; i < WORDS_OF_LANE; i++) {
        shared.marked[WARP * i + lane()] = 0;
    }
    __syncwarp();
    const float least = __uint_as_float(bound);
    for (unsigned i = lane(); i < count; i += WARP) {
        const unsigned first = shared.reaching[i] * GROUP;
        unsigned mask = 0;
        for (unsigned group = 0; group < GROUPS<ENCODE_THREADS>; group++) {
            const float4 four = *(const float4 *)(shared.values + group * ENCODE_THREADS * GROUP + first);
            mask |= fabsf(four.x) >= least ? 1u << GROUP * group : 0;
            mask |= fabsf(four.y) >= least ? 2u << GROUP * group : 0;
            mask |= fabsf(four.z) >= least ? 4u << GROUP * group : 0;
            mask |= fabsf(four.w) >= least ? 8u << GROUP * group : 0;
        }
        for (; mask; mask &= mask - 1) {
            const unsigned bit = __ffs(mask) - 1, index = first + bit / GROUP * (ENCODE_THREADS * GROUP) + bit % GROUP;
            atomicOr(&shared.marked[index / 32], 1u << index % 32);
        }
    }
    __syncwarp();
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

// The marked elements of a lane, side by side.
struct Marks {
    unsigned words[WORDS_OF_LANE];

    __device__ Marks(const unsigned *marked) {
        for (unsigned i = 0; i < WORDS_OF_LANE; i++) {
            words[i] = marked[WORDS_OF_LANE * lane() + i];
        }
    }

    __device__ unsigned count() const {
        unsigned count = 0;
        for (unsigned i = 0; i < WORDS_OF_LANE; i++) {
            count += __popc(words[i]);
        }
        return count;
    }

    // Calls with each one's index.
    template <class F> __device__ void each(F f) const {
        for (unsigned i = 0; i < WORDS_OF_LANE; i++) {
            for (unsigned word = words[i]; word; word &= word - 1) {
                f(32 * (WORDS_OF_LANE * lane() + i) + __ffs(word) - 1);
            }
        }
    }

    // How many indices are as asked.
    template <class F> __device__ unsigned count_of(F is_one) const {
        unsigned count = 0;
        each([&](unsigned index) { count += is_one(index); });
        return count;
    }
};

// By one warp, each lane for the marks that are its own: leaves those at the k largest, of equal ones at those with the lowest indices.
template <unsigned MOST> __device__ inline void thin_out(unsigned bound, unsigned k, Shared<MOST> &shared) {
    const Marks marks(shared.marked);
    const Cut cut = find_cut(bound, shared.largest + 1, k, 0, [&](unsigned least) {
        return __reduce_add_sync(ALL_LANES, marks.count_of([&](unsigned index) { return key(shared.values[index]) >= least; }));
    });
    unsigned ties = sum_before(marks.count_of([&](unsigned index) { return key(shared.values[index]) + 1 == cut.key; }));
    marks.each([&](unsigned index) {
        const unsigned key_of = key(shared.values[index]);
        if (key_of < cut.key && !(key_of + 1 == cut.key && ties++ < cut.ties)) {
            shared.marked[index / 32] &= ~(1u << index % 32);
        }
    });
}

// A selected value's magnitude in fixed point, at most what 12 bits hold.
__device__ inline unsigned fixed_value(float value, float unit) {
    return (unsigned)fminf(__fmul_rn(fabsf(value), unit), (float)((2 << FIXED_BITS) - 1));
}

// By one warp: of the candidates' `indices` those selected are left; sets `doubled`. The sum of the selected in fixed point.
template <unsigned MOST> __device__ inline unsigned keep_selected(const Cut &cut, unsigned candidates, float unit, Shared<MOST> &shared) {
    const unsigned before_me = (1u << lane()) - 1;
    unsigned kept = 0, ties = 0, sum = 0;
    for (unsigned first = 0; first < candidates; first += WARP) {
        const bool is_one = first + lane() < candidates;
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
    if (lane() < EIGHT - 1 && kept + lane() < MOST) {
        shared.doubled[kept + lane()] = 0;
    }
    __syncwarp();
    return sum;
}

// By one warp: sets `indices` and `doubled` for the k values of largest magnitude, of equal ones those with the lowest indices. Their sum in fixed point.
template <unsigned MOST> __device__ inline unsigned select(const Keys &keys, unsigned bound, unsigned k, float unit, Shared<MOST> &shared) {
    mark_candidates(keys, bound, shared);
    unsigned mine = Marks(shared.marked).count(), candidates = __reduce_add_sync(ALL_LANES, mine);
    if (candidates > ENCODE_THREADS && candidates > k) {
        thin_out(bound, k, shared);
        mine = Marks(shared.marked).count(), candidates = k;
    }
    unsigned to = sum_before(mine);
    Marks(shared.marked).each([&](unsigned index) { shared.indices[to++] = index; });
    __syncwarp();
    Cut cut = {bound, 0};
    if (candidates > k) {
        const Keys keys([&](unsigned i) { return i < candidates ? key(shared.values[shared.indices[i]]) : 0; });
        cut = find_cut(bound, shared.largest + 1, k, 0, [&](unsigned key) { return keys.reaching(key); });
    }
    return keep_selected(cut, candidates, unit, shared);
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

// Some numbers of a lane, one for each of its pairs.
struct OfPairs {
    unsigned of[PAIRS_OF_LANE];
};

// By one warp: the sum of what those of `doubled` exceed each `middle` by, from the sum of all.
//
// What x exceeds m by is (|x - m| + x - m) / 2. Sums of 2^10 such distances are exact in f32.
template <unsigned MOST> __device__ inline OfPairs excesses(const OfPairs &middle, unsigned k, unsigned sum, const Shared<MOST> &shared) {
    // The bits of 2^23, whose sum with a smaller number has that one's bits.
    constexpr unsigned ABOVE = 0x4B000000, BATCH = 1024;
    const unsigned count = ceil_div(k, EIGHT) * EIGHT;
    OfPairs excess;
    float middles[PAIRS_OF_LANE];
    for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
        excess.of[c] = sum - count * middle.of[c];
        middles[c] = __uint_as_float(ABOVE | middle.of[c]);
    }
    for (unsigned start = 0; start < count; start += BATCH) {
        float distances[PAIRS_OF_LANE] = {};
        for (unsigned j = start; j < at_most(start + BATCH, count); j += EIGHT) {
            const uint4 eight = *(const uint4 *)(shared.doubled + j);
            const unsigned twos[EIGHT / 2] = {eight.x, eight.y, eight.z, eight.w};
            for (unsigned i = 0; i < EIGHT; i++) {
                const float x = __uint_as_float(ABOVE | (twos[i / 2] >> 16 * (i % 2) & 0xFFFF));
                for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
                    distances[c] = __fadd_rn(distances[c], fabsf(__fsub_rn(x, middles[c])));
                }
            }
        }
        for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
            excess.of[c] += (unsigned)distances[c];
        }
    }
    for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
        excess.of[c] /= 2;
    }
    return excess;
}

// By one warp: the scale code of `sign2` with the least squared error of the selected values, of equal ones the lowest. `sum` is that of the values in fixed
// point, `table` what the codes decode to.
//
// For magnitudes l and h, a value f is nearer to h if 2f > l + h, and (f - l)^2 - (f - h)^2 = (h - l) (2f - l - h). So the sum of the squared errors is
// that of (f - l)^2 less h - l times the sum of what 2f exceeds l + h by. What all codes have in common is left out.
template <unsigned MOST>
__device__ inline unsigned sign2_scale(int top, float unit, unsigned k, unsigned sum, const float *table, const Shared<MOST> &shared) {
    // More than any cost is below zero.
    constexpr long long ABOVE_ZERO = 1ll << 40;
    int codes[PAIRS_OF_LANE], low[PAIRS_OF_LANE], high[PAIRS_OF_LANE];
    OfPairs middle;
    for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
        const int pair = WARP * c + lane(), code = (top - 5 - LOWEST_OCTAVE) * (int)CODES_OF_OCTAVE + pair;
        codes[c] = pair == 0 || pair >= (int)PAIRS || code < 0 ? 0 : code;
        low[c] = fixed_point(table[4 * codes[c]], unit);
        high[c] = fixed_point(table[4 * codes[c] + 1], unit);
        middle.of[c] = low[c] + high[c];
    }
    const OfPairs excess = excesses(middle, k, 2 * sum, shared);
    u64 least = NEVER;
    for (unsigned c = 0; c < PAIRS_OF_LANE; c++) {
        const long long cost = low[c] * ((long long)k * low[c] - 2ll * sum) - (long long)(high[c] - low[c]) * excess.of[c];
        const u64 of_code = (u64)(ABOVE_ZERO + cost) << 8 | codes[c];
        least = of_code < least ? of_code : least;
    }
    return least_of_warp(least) & 0xFF;
}

// By one warp: that of `sign1`, whose magnitude is nearest to the mean; both times k.
__device__ inline unsigned sign1_scale(int top, float unit, unsigned k, unsigned sum, const float *table) {
    u64 least = NEVER;
    for (int code = lane(); code < 256; code += WARP) {
        const int octave = (code - 1) / (int)CODES_OF_OCTAVE + LOWEST_OCTAVE;
        if (code == 0 || (octave <= top && octave >= top - FIXED_BITS)) {
            const long long error = (long long)k * fixed_point(table[4 * code], unit) - sum;
            const u64 cost = (u64)(error < 0 ? -error : error) << 8 | code;
            least = cost < least ? cost : least;
        }
    }
    return least_of_warp(least) & 0xFF;
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
template <unsigned MOST>
__device__ inline void put_value(const Part &part, const Coding &coding, unsigned j, unsigned index, unsigned code, Streams<MOST> &streams) {
    put(streams.codes, code_bits(part) * j, code);
    put(streams.indices, coding.index_bits * j, index & ((1u << coding.index_bits) - 1));
    if (part.select == ELIAS_FANO) {
        put(streams.indices, 8 * ceil_div(coding.k * coding.index_bits, 8) + (index >> coding.index_bits) + j, 1);
    }
}

__device__ inline void clear(unsigned *words, unsigned bytes) {
    for (unsigned i = lane(); i < ceil_div(bytes, 4); i += WARP) {
        words[i] = 0;
    }
}

__device__ inline void write_bytes(const unsigned *from, u8 *to, unsigned bytes) {
    for (unsigned i = lane(); i < bytes; i += WARP) {
        to[i] = ((const u8 *)from)[i];
    }
}

// By one warp: the selected values become codes and indices; what is left of them is their next error feedback. A chunk that is sent as zeros has the lowest
// indices.
template <unsigned MOST>
__device__ inline void quantize(const Part &part, const Coding &coding, unsigned scale, const float *table, Shared<MOST> &shared) {
    const float low = table[4 * scale], high = part.quantizer == SIGN1 ? 0.0f : table[4 * scale + 1];
    const Coder coder = {part.quantizer, low, high, __fmul_rn(__fadd_rn(low, high), 0.5f)};
    clear(shared.streams.codes, coding.code_bytes);
    clear(shared.streams.indices, coding.index_bytes);
    __syncwarp();
    for (unsigned j = lane(); j < coding.k; j += WARP) {
        if (scale == 0) {
            put_value(part, coding, j, j, 0, shared.streams);
        } else {
            const unsigned index = shared.indices[j];
            const float value = shared.values[index];
            const unsigned code = coder.code(value);
            shared.values[index] = __fsub_rn(value, coder.decode(code));
            put_value(part, coding, j, index, code, shared.streams);
        }
    }
    __syncwarp();
}

// Groups of a thread that are loaded at once.
constexpr unsigned ABREAST = 2;

// Sets a and each thread's largest key.
template <bool AT_ONCE, unsigned MOST, class T, class E>
__device__ inline void begin(const Job<T, E> &job, const Chunk &chunk, float beta, Shared<MOST> &shared) {
    unsigned largest = 0;
    for (unsigned first = 0; first < GROUPS<ENCODE_THREADS>; first += ABREAST) {
        float before[ABREAST][GROUP], after[ABREAST][GROUP], values[ABREAST][GROUP];
        for (unsigned i = 0; i < ABREAST; i++) {
            load<ENCODE_THREADS, AT_ONCE>(job.before, chunk, first + i, before[i]);
            load<ENCODE_THREADS, AT_ONCE>(job.after, chunk, first + i, after[i]);
            load<ENCODE_THREADS, AT_ONCE>(job.feedback, chunk, first + i, values[i]);
        }
        for (unsigned i = 0; i < ABREAST; i++) {
            for (unsigned j = 0; j < GROUP; j++) {
                values[i][j] = __fadd_rn(__fmul_rn(beta, values[i][j]), __fsub_rn(before[i][j], after[i][j]));
                largest = larger(largest, key(values[i][j]));
            }
            *(float4 *)(shared.values + first_of<ENCODE_THREADS>(first + i)) = float4{values[i][0], values[i][1], values[i][2], values[i][3]};
        }
    }
    shared.largest_of[threadIdx.x] = largest;
}

// By one warp: sends what is selected of the chunk, and leaves the rest. Nothing if a is not finite.
template <unsigned MOST>
__device__ inline void send(const Part &part, const Chunk &chunk, const float *table, unsigned infinite, u8 *section, Shared<MOST> &shared) {
    const Coding &coding = chunk.coding;
    const Keys keys([&](unsigned i) { return shared.largest_of[i]; });
    const unsigned bound = find_bound(keys, coding.k, shared);
    __syncwarp();
    if (shared.largest >= infinite) {
        return;
    }
    const int top = octave_of(shared.largest);
    unsigned scale = 0;
    if (top >= LOWEST_OCTAVE) {
        const float unit = unit_of(top);
        const unsigned sum = select(keys, bound, coding.k, unit, shared);
        scale = part.quantizer == SIGN1 ? sign1_scale(top, unit, coding.k, sum, table) : sign2_scale(top, unit, coding.k, sum, table, shared);
    }
    quantize(part, coding, scale, table, shared);
    if (lane() == 0) {
        section[part.scales + chunk.number] = scale;
    }
    write_bytes(shared.streams.codes, section + codes_at(part, chunk), coding.code_bytes);
    write_bytes(shared.streams.indices, section + indices_at(part, chunk), coding.index_bytes);
}

// False if a is not finite; then nothing is written.
template <bool AT_ONCE, unsigned MOST, class T, class E>
__device__ inline bool encode_chunk(const Job<T, E> &job, const Chunk &chunk, float beta, const float *tables, Shared<MOST> &shared) {
    // A next error feedback in bf16 must be finite too.
    constexpr unsigned infinite = sizeof(E) == 2 ? ROUNDS_TO_INFINITE : INFINITE;
    begin<AT_ONCE>(job, chunk, beta, shared);
    __syncthreads();
    if (is_selecting_warp()) {
        send(job.part, chunk, tables + 1024 * job.part.quantizer, infinite, job.section, shared);
    }
    __syncthreads();
    if (shared.largest >= infinite) {
        return false;
    }
    for (unsigned group = 0; group < GROUPS<ENCODE_THREADS>; group++) {
        store<ENCODE_THREADS, AT_ONCE>(shared.values + first_of<ENCODE_THREADS>(group), job.next_feedback, chunk, group);
    }
    return true;
}

template <unsigned MOST, class T, class E>
__device__ inline void encode(const Job<T, E> *jobs, const unsigned *owner, float beta, const float *tables, unsigned *fault) {
    __shared__ Shared<MOST> shared;
    const Job<T, E> &job = jobs[owner[blockIdx.x]];
    const Chunk chunk = locate(job.part);
    const bool is_finite =
        chunk.coding.at_once ? encode_chunk<true>(job, chunk, beta, tables, shared) : encode_chunk<false>(job, chunk, beta, tables, shared);
    if (!is_finite && threadIdx.x == 0) {
        atomicMin(fault, owner[blockIdx.x]);
    }
}

// jobs: the parts, of whose chunks at most MOST values are selected. owner: the part of each block. tables: what each (quantizer, scale code, value code) decodes to, 2 * 256 * 4. fault: the lowest number
// of a part where a is not finite, if there is one; such a chunk's section and error feedback are left alone.
#define ENCODE(NAME, MOST, BLOCKS, T, E)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ENCODE_THREADS, BLOCKS)                                                                         \
    NAME(const Job<T, E> *jobs, const unsigned *owner, float beta, const float *tables, unsigned *fault) {                                       \
        encode<MOST>(jobs, owner, beta, tables, fault);                                                                                          \
    }
// By the elements of θ, then of e. Where `any` number is selected, fewer blocks share a multiprocessor.
#define ENCODE_OF(SUFFIX, T, E)                                                                                                                  \
    ENCODE(encode_##SUFFIX, FEW, 10, T, E)                                                                                                       \
    ENCODE(encode_any_##SUFFIX, CHUNK_ELEMENTS, 6, T, E)
ENCODE_OF(f32_f32, float, float)
ENCODE_OF(f32_bf16, float, bf16)
ENCODE_OF(bf16_f32, bf16, float)
ENCODE_OF(bf16_bf16, bf16, bf16)
