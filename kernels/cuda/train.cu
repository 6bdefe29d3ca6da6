// What a training step needs beyond libtorch: the cross entropy of a large vocabulary, SwiGLU, rotary embedding. Elements are f32 or bf16, arithmetic is f32
// and rounded once at the end. Training only proposes, so that no bits are promised here.

constexpr float LOWEST = -3.4e38f, LOG2_E = 1.44269504f;

// e^x in few instructions: one or two bits less exact than expf for what is of use here.
__device__ inline float exponential(float x) { return exp2f(x * LOG2_E); }

// Of some numbers the largest, and the sum of exp(number - largest).
struct Exponentials {
    float largest, sum;
};

__device__ inline Exponentials join(Exponentials a, Exponentials b) {
    const float largest = fmaxf(a.largest, b.largest);
    return {largest, a.sum * exponential(a.largest - largest) + b.sum * exponential(b.largest - largest)};
}

// Four numbers of a row of so many, from `first` on; `beyond` where it has ended.
template <class T> __device__ inline void load_of_row(const T *row, unsigned first, unsigned count, bool at_once, float beyond, float *to) {
    if (at_once) {
        load_four(row + first, to);
    } else {
        for (unsigned i = 0; i < GROUP; i++) {
            to[i] = first + i < count ? widen(row[first + i]) : beyond;
        }
    }
}

template <class T> __device__ inline void store_in_row(const float *from, T *row, unsigned first, unsigned count, bool at_once) {
    if (at_once) {
        store_four(from, row + first);
    } else {
        for (unsigned i = 0; i < GROUP; i++) {
            if (first + i < count) {
                narrow(from[i], row[first + i]);
            }
        }
    }
}

// Groups of a thread that are on their way together.
template <bool AT_ONCE> constexpr unsigned TOGETHER = AT_ONCE ? 4 : 1;

// The first element of a thread's group among those from `start` on.
__device__ inline unsigned first_from(unsigned start, unsigned group) { return start + (group * THREADS + threadIdx.x) * GROUP; }

template <bool AT_ONCE, class T> __device__ inline void load_together(const T *row, unsigned start, unsigned count, float (*to)[GROUP]) {
    for (unsigned group = 0; group < TOGETHER<AT_ONCE>; group++) {
        const unsigned first = first_from(start, group);
        if (!AT_ONCE) {
            load_of_row(row, first, count, false, LOWEST, to[group]);
        } else if (first < count) {
            load_four(row + first, to[group]);
        } else {
            to[group][0] = to[group][1] = to[group][2] = to[group][3] = LOWEST;
        }
    }
}

// The exponentials of a whole row, the same bits in every thread.
template <bool AT_ONCE, class T> __device__ inline Exponentials row_exponentials(const T *row, unsigned count, Exponentials *of_warps) {
    Exponentials mine = {LOWEST, 0};
    for (unsigned start = 0; start < count; start += TOGETHER<AT_ONCE> * THREADS * GROUP) {
        float numbers[TOGETHER<AT_ONCE>][GROUP];
        load_together<AT_ONCE>(row, start, count, numbers);
        float largest = mine.largest, sum = 0;
        for (unsigned i = 0; i < TOGETHER<AT_ONCE> * GROUP; i++) {
            largest = fmaxf(largest, numbers[i / GROUP][i % GROUP]);
        }
        for (unsigned i = 0; i < TOGETHER<AT_ONCE> * GROUP; i++) {
            sum += exponential(numbers[i / GROUP][i % GROUP] - largest);
        }
        mine = {largest, mine.sum * exponential(mine.largest - largest) + sum};
    }
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        mine = join(mine, {__shfl_xor_sync(ALL_LANES, mine.largest, distance), __shfl_xor_sync(ALL_LANES, mine.sum, distance)});
    }
    if (lane() == 0) {
        of_warps[threadIdx.x / WARP] = mine;
    }
    __syncthreads();
    Exponentials all = of_warps[0];
    for (unsigned warp = 1; warp < THREADS / WARP; warp++) {
        all = join(all, of_warps[warp]);
    }
    return all;
}

// One row of logits per block: its negative log likelihood of the target; and the logits become that one's gradient, softmax(logits) - onehot(target).
template <bool AT_ONCE, class T>
__device__ inline void cross_entropy_of_row(T *row, unsigned target, float *loss, unsigned vocabulary, Exponentials *of_warps) {
    const float at_target = widen(row[target]);
    const Exponentials all = row_exponentials<AT_ONCE>(row, vocabulary, of_warps);
    if (threadIdx.x == 0) {
        *loss = logf(all.sum) + all.largest - at_target;
    }
    const float share = 1.0f / all.sum;
    for (unsigned start = 0; start < vocabulary; start += TOGETHER<AT_ONCE> * THREADS * GROUP) {
        float numbers[TOGETHER<AT_ONCE>][GROUP];
        load_together<AT_ONCE>(row, start, vocabulary, numbers);
        for (unsigned group = 0; group < TOGETHER<AT_ONCE>; group++) {
            const unsigned first = first_from(start, group);
            for (unsigned i = 0; i < GROUP; i++) {
                numbers[group][i] = share * exponential(numbers[group][i] - all.largest) - (first + i == target ? 1.0f : 0.0f);
            }
            if (!AT_ONCE) {
                store_in_row(numbers[group], row, first, vocabulary, false);
            } else if (first < vocabulary) {
                store_four(numbers[group], row + first);
            }
        }
    }
}

template <class T> __device__ inline void cross_entropy(T *logits, const long long *targets, float *losses, unsigned vocabulary) {
    __shared__ Exponentials of_warps[THREADS / WARP];
    T *row = logits + (u64)blockIdx.x * vocabulary;
    const unsigned target = (unsigned)targets[blockIdx.x];
    if (vocabulary % GROUP == 0 && is_aligned(logits)) {
        cross_entropy_of_row<true>(row, target, &losses[blockIdx.x], vocabulary, of_warps);
    } else {
        cross_entropy_of_row<false>(row, target, &losses[blockIdx.x], vocabulary, of_warps);
    }
}

// Where a thread's four elements lie in rows of so many.
struct Spot {
    u64 row;
    unsigned first;
};

__device__ inline Spot spot(unsigned width) {
    const unsigned groups = ceil_div(width, GROUP);
    const u64 number = (u64)blockIdx.x * THREADS + threadIdx.x;
    return {number / groups, (unsigned)(number % groups) * GROUP};
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// [rows, gate and up] -> silu(gate) * up, [rows, width].
template <class T> __device__ inline void swiglu(const T *gate_up, T *to, unsigned rows, unsigned width) {
    const Spot at = spot(width);
    if (at.row >= rows) {
        return;
    }
    const T *row = gate_up + at.row * 2 * width;
    const bool at_once = width % GROUP == 0 && is_aligned(gate_up) && is_aligned(to);
    float gate[GROUP], up[GROUP];
    load_of_row(row, at.first, width, at_once, 0.0f, gate);
    load_of_row(row + width, at.first, width, at_once, 0.0f, up);
    for (unsigned i = 0; i < GROUP; i++) {
        up[i] *= gate[i] * sigmoid(gate[i]);
    }
    store_in_row(up, to + at.row * width, at.first, width, at_once);
}

// The gradient of `gate_up` from that of what `swiglu` made of it.
template <class T> __device__ inline void swiglu_backward(const T *gate_up, const T *gradient, T *to, unsigned rows, unsigned width) {
    const Spot at = spot(width);
    if (at.row >= rows) {
        return;
    }
    const T *row = gate_up + at.row * 2 * width;
    const bool at_once = width % GROUP == 0 && is_aligned(gate_up) && is_aligned(gradient) && is_aligned(to);
    float gate[GROUP], up[GROUP], given[GROUP], to_up[GROUP];
    load_of_row(row, at.first, width, at_once, 0.0f, gate);
    load_of_row(row + width, at.first, width, at_once, 0.0f, up);
    load_of_row(gradient + at.row * width, at.first, width, at_once, 0.0f, given);
    for (unsigned i = 0; i < GROUP; i++) {
        const float share = sigmoid(gate[i]);
        to_up[i] = given[i] * gate[i] * share;
        gate[i] = given[i] * up[i] * share * (1.0f + gate[i] * (1.0f - share));
    }
    T *to_row = to + at.row * 2 * width;
    store_in_row(gate, to_row, at.first, width, at_once);
    store_in_row(to_up, to_row + width, at.first, width, at_once);
}

// [rows, heads, width] -> the same with the first `rotated` heads of each row turned by the angles of its position, row % length, in `direction` 1 or -1.
// Elements i and i + width / 2 are one point of the plane; the tables are [length, width / 2].
template <class T>
__device__ inline void rotary(const T *from, T *to, const float *cosines, const float *sines, unsigned rows, unsigned length, unsigned heads, unsigned rotated,
                              unsigned width, float direction) {
    const unsigned half = width / 2;
    const Spot at = spot(half);
    const u64 row = at.row / heads;
    if (row >= rows) {
        return;
    }
    const bool at_once = half % GROUP == 0 && is_aligned(from) && is_aligned(to) && is_aligned(cosines) && is_aligned(sines);
    const u64 head = at.row * width, angles = row % length * half;
    float x[GROUP], y[GROUP];
    load_of_row(from + head, at.first, half, at_once, 0.0f, x);
    load_of_row(from + head + half, at.first, half, at_once, 0.0f, y);
    if (at.row % heads < rotated) {
        float cosine[GROUP], sine[GROUP];
        load_of_row(cosines + angles, at.first, half, at_once, 0.0f, cosine);
        load_of_row(sines + angles, at.first, half, at_once, 0.0f, sine);
        for (unsigned i = 0; i < GROUP; i++) {
            const float turned = x[i] * cosine[i] - direction * y[i] * sine[i];
            y[i] = y[i] * cosine[i] + direction * x[i] * sine[i];
            x[i] = turned;
        }
    }
    store_in_row(x, to + head, at.first, half, at_once);
    store_in_row(y, to + head + half, at.first, half, at_once);
}

#define TRAINING(SUFFIX, T)                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                                                     \
    cross_entropy_##SUFFIX(T *logits, const long long *targets, float *losses, unsigned vocabulary) {                                            \
        cross_entropy(logits, targets, losses, vocabulary);                                                                                      \
    }                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) swiglu_##SUFFIX(const T *gate_up, T *to, unsigned rows, unsigned width) {               \
        swiglu(gate_up, to, rows, width);                                                                                                        \
    }                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                                        \
    swiglu_backward_##SUFFIX(const T *gate_up, const T *gradient, T *to, unsigned rows, unsigned width) {                                        \
        swiglu_backward(gate_up, gradient, to, rows, width);                                                                                     \
    }                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                                        \
    rotary_##SUFFIX(const T *from, T *to, const float *cosines, const float *sines, unsigned rows, unsigned length, unsigned heads,              \
                    unsigned rotated, unsigned width, float direction) {                                                                         \
        rotary(from, to, cosines, sines, rows, length, heads, rotated, width, direction);                                                        \
    }

TRAINING(f32, float)
TRAINING(bf16, bf16)
