// Convolution with what follows it, forward and backward, as products of matrices that are never laid out: their
// elements are read from the images where they stand. A dense layer is a 1x1 convolution of one pixel.
//
//  forward        C[pixel][output] = patch of the image at pixel x weights,       then bias, ReLU, pooling, dropout
//  input gradient C[pixel][input]  = gradients around the pixel x weights,        then what the layer before lets through
//  weight gradient C[patch][output] = sum over pixels of image x gradient;        one more row of ones makes the bias's
//
// Constants: H W I (input), O, KERNEL, STRIDE, PAD, OH OW (the convolution's result); RELU, POOL, DROP (the stream's
// word, 0 for none), DROP_LIVE, DROP_THRESHOLD, DROP_SCALE; BIAS; TRAINED (0 where the weight has no gradient); C and P (a dense layer's inputs are P pixels of C
// channels, its weights in CHW order; else C = I, P = 1); WIDE_O and WIDE_I (rows of the packed weights, multiples of
// four); PRECISION (0 f32, 1 tf32, 2 bf16); SPLITS, INPUT_SPLITS, WEIGHT_SPLITS (blocks that share one sum);
// WEIGHT_BLOCKS; UPSTREAM_* (see kernels.cuh) where the layer before wants its gradient prepared.

// A block of 128 threads makes a tile of BM x BN results, BK terms of the sums at a time.
constexpr int BM = 64, BN = 32, BK = 32, THREADS = 128;
// Lines in shared memory: padded so that the tensor cores' reads hit different banks.
constexpr int LINE_K = BK + 4, LINE_M = BM + 8, LINE_N = BN + 8, LINE_C = BN + 4;
constexpr int TILE_A = BM * LINE_K, TILE_B = BK * LINE_N;
constexpr int PATCH = KERNEL * KERNEL * I, BACK_PATCH = KERNEL * KERNEL * O;
constexpr int ROWS = PATCH + BIAS;
// Pixels of the convolution's result that are wanted: with pooling in the order of the windows.
constexpr int PH = POOL ? OH / 2 : OH, PW = POOL ? OW / 2 : OW;
constexpr int WANTED = POOL ? PH * PW * 4 : OH * OW;

static_assert(BM * LINE_K >= BK * LINE_M, "one room for both orders of a");
static_assert(2 * (TILE_A + TILE_B) >= BM * LINE_C, "results take the operands' room");

// The operands' tiles in registers, on their way to shared memory. By rows: line t/8 + 16j of the results, four
// neighbouring terms. By terms: term t/16 + 8j, four neighbouring lines.
struct Fetched {
    float4 a[4];
    float4 b[2];
};

__device__ __forceinline__ float4 zero4() {
    float4 z = {0.0f, 0.0f, 0.0f, 0.0f};
    return z;
}

__device__ __forceinline__ float4 load4(const float *at) { return *(const float4 *)at; }

template <bool BY_ROWS> __device__ __forceinline__ void store(const Fetched &f, float *a, float *b) {
    int t = threadIdx.x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float *to = BY_ROWS ? a + (t / 8 + 16 * j) * LINE_K + t % 8 * 4 : a + (t / 16 + 8 * j) * LINE_M + t % 16 * 4;
        *(float4 *)to = f.a[j];
    }
#pragma unroll
    for (int j = 0; j < 2; j++) *(float4 *)(b + (t / 8 + 16 * j) * LINE_N + t % 8 * 4) = f.b[j];
}

template <bool BY_ROWS> __device__ __forceinline__ float element(const float *a, int m, int k) {
    return BY_ROWS ? a[m * LINE_K + k] : a[k * LINE_M + m];
}

// Which results a thread of the f32 product has: four lines, four columns.
template <bool BY_ROWS> __device__ __forceinline__ int line_of(int i) {
    int y = threadIdx.x / 8;
    return BY_ROWS ? y + 16 * i : y * 4 + i;
}

template <bool BY_ROWS> __device__ __forceinline__ void multiply(const float *a, const float *b, float *sum) {
#if PRECISION == 0
    int x = threadIdx.x % 8;
#pragma unroll 4
    for (int k = 0; k < BK; k += 4) {
        float av[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 v = BY_ROWS ? load4(a + line_of<BY_ROWS>(i) * LINE_K + k) : load4(a + (k + i) * LINE_M + line_of<BY_ROWS>(0));
            float *to = av[i];
            to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        }
#pragma unroll
        for (int kk = 0; kk < 4; kk++) {
            float4 v = load4(b + (k + kk) * LINE_N + x * 4);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float f = BY_ROWS ? av[i][kk] : av[kk][i];
                sum[4 * i] = fmaf(f, v.x, sum[4 * i]);
                sum[4 * i + 1] = fmaf(f, v.y, sum[4 * i + 1]);
                sum[4 * i + 2] = fmaf(f, v.z, sum[4 * i + 2]);
                sum[4 * i + 3] = fmaf(f, v.w, sum[4 * i + 3]);
            }
        }
    }
#else
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4, m = threadIdx.x / 32 * 16 + group;
#if PRECISION == 1
#pragma unroll
    for (int k = 0; k < BK; k += 8) {
        u32 av[4] = {to_tf32(element<BY_ROWS>(a, m, k + member)), to_tf32(element<BY_ROWS>(a, m + 8, k + member)),
                     to_tf32(element<BY_ROWS>(a, m, k + member + 4)), to_tf32(element<BY_ROWS>(a, m + 8, k + member + 4))};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *at = b + (k + member) * LINE_N + 8 * j + group;
            u32 bv[2] = {to_tf32(at[0]), to_tf32(at[4 * LINE_N])};
            mma_tf32(sum + 4 * j, av, bv);
        }
    }
#else
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
        u32 av[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = m + i % 2 * 8, term = k + 2 * member + i / 2 * 8;
            av[i] = to_bf16(element<BY_ROWS>(a, row, term), element<BY_ROWS>(a, row, term + 1));
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *at = b + (k + 2 * member) * LINE_N + 8 * j + group;
            u32 bv[2] = {to_bf16(at[0], at[LINE_N]), to_bf16(at[8 * LINE_N], at[9 * LINE_N])};
            mma_bf16(sum + 4 * j, av, bv);
        }
    }
#endif
#endif
}

// Terms begin..end of the sums, then the results in `room` as BM lines of LINE_C.
template <bool BY_ROWS, class Operands> __device__ __forceinline__ void product(const Operands &from, u32 begin, u32 end, float *room) {
    float sum[16];
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = 0.0f;
    Fetched fetched;
    if (begin < end) {
        from.fetch(begin, end, fetched);
        store<BY_ROWS>(fetched, room, room + TILE_A);
    }
    __syncthreads();
    int now = 0;
    for (u32 k = begin; k < end; k += BK) {
        bool more = k + BK < end;
        if (more) from.fetch(k + BK, end, fetched);
        float *tile = room + now * (TILE_A + TILE_B);
        multiply<BY_ROWS>(tile, tile + TILE_A, sum);
        now ^= 1;
        if (more) {
            float *other = room + now * (TILE_A + TILE_B);
            store<BY_ROWS>(fetched, other, other + TILE_A);
        }
        __syncthreads();
    }
#if PRECISION == 0
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) room[line_of<BY_ROWS>(i) * LINE_C + threadIdx.x % 8 * 4 + j] = sum[4 * i + j];
#else
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4, m = threadIdx.x / 32 * 16 + group;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) room[(m + i / 2 * 8) * LINE_C + 8 * j + 2 * member + i % 2] = sum[4 * j + i];
#endif
    __syncthreads();
}

// Adds the partial sums of the blocks that share a tile (split-K). Returns true in the last block, whose `room` then holds
// the total.
__device__ __forceinline__ bool split_k_reduce(float *room, float *parts, u32 *counters, u32 tile, u32 split, u32 splits) {
    if (splits == 1) return true;
    float *mine = parts + ((u64)tile * splits + split) * (BM * BN);
    for (int e = threadIdx.x; e < BM * BN; e += THREADS) mine[e] = room[e / BN * LINE_C + e % BN];
    if (!last_block(counters + tile, splits)) return false;
    const float *all = parts + (u64)tile * splits * (BM * BN);
    for (int e = threadIdx.x; e < BM * BN; e += THREADS) {
        float sum = 0.0f;
        for (u32 i = 0; i < splits; i++) sum += __ldcg(all + i * (BM * BN) + e);
        room[e / BN * LINE_C + e % BN] = sum;
    }
    __syncthreads();
    return true;
}

// Four neighbours of the patch at (y, x) of the image that begins at `image`, from term k on.
__device__ __forceinline__ float4 patch4(const float *image, int y, int x, u32 k) {
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        u32 term = k + j, tap = term / I;
        int row = y + (int)(tap / KERNEL), column = x + (int)(tap % KERNEL);
        bool inside = term < PATCH && row >= 0 && row < H && column >= 0 && column < W;
        if (I % 4 == 0) {
            if (!inside) return zero4();
            return load4(image + ((u32)row * W + column) * I + term % I);
        }
        v[j] = inside ? image[((u32)row * W + column) * I + term % I] : 0.0f;
    }
    float4 r = {v[0], v[1], v[2], v[3]};
    return r;
}

// Image, row and column of a wanted pixel of the result.
__device__ __forceinline__ void pixel_of(u32 m, u32 &image, u32 &y, u32 &x) {
    image = m / WANTED;
    u32 rest = m % WANTED;
    if (POOL) {
        u32 place = rest % 4, window = rest / 4;
        y = window / PW * 2 + place / 2;
        x = window % PW * 2 + place % 2;
    } else {
        y = rest / OW;
        x = rest % OW;
    }
}

struct Forward {
    const float *image[4];
    int y[4], x[4];
    const float *weights;
    u32 column;

    __device__ __forceinline__ Forward(const float *input, const float *packed, u32 first, u32 column0, u32 pixels) {
        weights = packed;
        column = column0 + threadIdx.x % 8 * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 m = first + threadIdx.x / 8 + 16 * j, n, row, col;
            pixel_of(m, n, row, col);
            bool there = m < pixels;
            image[j] = input + (there ? (u64)n * (H * W * I) : 0);
            // Out of sight, so that all is zero.
            y[j] = there ? (int)(row * STRIDE) - PAD : -H - KERNEL;
            x[j] = (int)(col * STRIDE) - PAD;
        }
    }

    __device__ __forceinline__ void fetch(u32 k, u32 end, Fetched &f) const {
#pragma unroll
        for (int j = 0; j < 4; j++) f.a[j] = patch4(image[j], y[j], x[j], k + threadIdx.x % 8 * 4);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 term = k + threadIdx.x / 8 + 16 * j;
            f.b[j] = term < end && column < WIDE_O ? load4(weights + term * WIDE_O + column) : zero4();
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) forward(const Step *now, const float *input, const float *packed, const float *bias,
                                                              float *output, u8 *argmax, float *parts, u32 *counters) {
    __shared__ __align__(16) float room[2 * (TILE_A + TILE_B)];
    const Step s = *now;
    u32 pixels = s.count * WANTED, first = blockIdx.x * BM, column0 = blockIdx.y * BN, split = blockIdx.z;
    if (first >= pixels) return;
    constexpr u32 TERMS = (PATCH + BK * SPLITS - 1) / (BK * SPLITS) * BK;
    u32 begin = split * TERMS, end = begin + TERMS < PATCH ? begin + TERMS : PATCH;
    product<true>(Forward(input, packed, first, column0, pixels), begin, end, room);
    if (!split_k_reduce(room, parts, counters, blockIdx.x * gridDim.y + blockIdx.y, split, SPLITS)) return;
#if DROP != 0
    u32 threshold = DROP_LIVE ? s.threshold : DROP_THRESHOLD;
    float scale = DROP_LIVE ? s.scale : DROP_SCALE;
    if (s.number == 0) threshold = 0; // Scoring.
#endif
    constexpr int PLACES = POOL ? 4 : 1;
    for (u32 e = threadIdx.x; e < BM / PLACES * BN; e += THREADS) {
        u32 column = column0 + e % BN, line = e / BN * PLACES;
        if (column >= O || first + line >= pixels) continue;
        float shift = BIAS ? bias[column] : 0.0f, best = room[line * LINE_C + e % BN] + shift;
        u32 place = 0;
#pragma unroll
        for (int p = 1; p < PLACES; p++) {
            float v = room[(line + p) * LINE_C + e % BN] + shift;
            if (beats(v, best)) best = v, place = p;
        }
        if (RELU) best = relu(best);
        u32 to = (first + line) / PLACES * O + column;
#if DROP != 0
        best *= dropped(s, DROP, threshold, scale, to);
#endif
        output[to] = best;
        if (POOL) argmax[to] = (u8)place;
    }
}

// Sums over the gradients around each pixel of the input.
struct Inward {
    const float *image[4];
    int y[4], x[4];
    const float *weights;
    u32 column;

    __device__ __forceinline__ Inward(const float *grad, const float *packed, u32 first, u32 column0, u32 pixels) {
        weights = packed;
        column = column0 + threadIdx.x % 8 * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 m = first + threadIdx.x / 8 + 16 * j;
            bool there = m < pixels;
            image[j] = grad + (there ? (u64)(m / (H * W)) * (OH * OW * O) : 0);
            y[j] = there ? (int)(m / W % H) + PAD : -1 - KERNEL * STRIDE;
            x[j] = (int)(m % W) + PAD;
        }
    }

    __device__ __forceinline__ void fetch(u32 k, u32 end, Fetched &f) const {
        u32 first = k + threadIdx.x % 8 * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 term = first + i, tap = term / O;
                int row = y[j] - (int)(tap / KERNEL), column = x[j] - (int)(tap % KERNEL);
                bool inside = term < BACK_PATCH && row >= 0 && column >= 0 && row % STRIDE == 0 && column % STRIDE == 0 &&
                              row / STRIDE < OH && column / STRIDE < OW;
                const float *at = image[j] + ((u32)(row / STRIDE) * OW + column / STRIDE) * O + term % O;
                if (O % 4 == 0) {
                    f.a[j] = inside ? load4(at) : zero4();
                    break;
                }
                v[i] = inside ? *at : 0.0f;
            }
            if (O % 4 != 0) {
                float4 r = {v[0], v[1], v[2], v[3]};
                f.a[j] = r;
            }
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 term = k + threadIdx.x / 8 + 16 * j;
            f.b[j] = term < end && column < WIDE_I ? load4(weights + term * WIDE_I + column) : zero4();
        }
    }
};

// Sums over all pixels of the result.
struct Weigh {
    const float *input, *grad;
    u32 line, column;

    __device__ __forceinline__ void fetch(u32 k, u32 end, Fetched &f) const {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 m = k + threadIdx.x / 16 + 8 * j;
            float4 v = zero4();
            if (m < end && line < PATCH) {
                u32 n = m / (OH * OW), rest = m % (OH * OW);
                int y = (int)(rest / OW * STRIDE) - PAD, x = (int)(rest % OW * STRIDE) - PAD;
                v = patch4(input + (u64)n * (H * W * I), y, x, line);
            }
            if (BIAS && m < end && line <= PATCH && PATCH < line + 4) {
                u32 at = PATCH - line;
                if (at == 0) v.x = 1.0f;
                if (at == 1) v.y = 1.0f;
                if (at == 2) v.z = 1.0f;
                if (at == 3) v.w = 1.0f;
            }
            f.a[j] = v;
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 m = k + threadIdx.x / 8 + 16 * j;
            const float *at = grad + (u64)m * O + column;
            float4 v = zero4();
            if (m < end) {
                if (O % 4 == 0) {
                    if (column < O) v = load4(at);
                } else {
                    if (column < O) v.x = at[0];
                    if (column + 1 < O) v.y = at[1];
                    if (column + 2 < O) v.z = at[2];
                    if (column + 3 < O) v.w = at[3];
                }
            }
            f.b[j] = v;
        }
    }
};

// The first WEIGHT_BLOCKS blocks make the parameters' gradients (in PyTorch's order) and the sums of their squares, the
// rest the input's gradient: the two need nothing of each other.
extern "C" __global__ void __launch_bounds__(THREADS)
    backward(const Step *now, const float *input, const float *grad, const float *packed, float *grad_weight, float *grad_bias, double *squares,
             float *weight_parts, u32 *weight_counters, float *grad_input, const u8 *upstream_taken, float *parts, u32 *counters) {
    __shared__ __align__(16) float room[2 * (TILE_A + TILE_B)];
    const Step s = *now;
    if (blockIdx.x < WEIGHT_BLOCKS) {
        constexpr u32 COLUMNS = (O + BN - 1) / BN;
        u32 split = blockIdx.x % WEIGHT_SPLITS, tile = blockIdx.x / WEIGHT_SPLITS;
        u32 line0 = tile / COLUMNS * BM, column0 = tile % COLUMNS * BN;
        u32 pixels = s.count * (OH * OW);
        u32 terms = (pixels + BK * WEIGHT_SPLITS - 1) / (BK * WEIGHT_SPLITS) * BK;
        u32 begin = split * terms, end = begin + terms < pixels ? begin + terms : pixels;
        Weigh from = {input, grad, line0 + threadIdx.x % 16 * 4, column0 + threadIdx.x % 8 * 4};
        product<false>(from, begin, end, room);
        if (!split_k_reduce(room, weight_parts, weight_counters, tile, split, WEIGHT_SPLITS)) return;
        double square = 0.0;
        for (u32 e = threadIdx.x; e < BM * BN; e += THREADS) {
            u32 line = line0 + e / BN, column = column0 + e % BN;
            if (line >= ROWS || column >= O || (!TRAINED && line < PATCH)) continue;
            float v = room[e / BN * LINE_C + e % BN];
            if (line == PATCH) {
                grad_bias[column] = v;
            } else {
                u32 tap = line / I, i = line % I;
                grad_weight[column * PATCH + (i % C * P + i / C) * (KERNEL * KERNEL) + tap] = v;
            }
            square += (double)v * v;
        }
        __syncthreads();
        square = block_sum(square, (double *)room);
        if (threadIdx.x == 0) squares[tile] = square;
        return;
    }
#if INPUT_SPLITS > 0
    constexpr u32 COLUMNS = (I + BN - 1) / BN;
    u32 block = blockIdx.x - WEIGHT_BLOCKS;
    u32 split = block % INPUT_SPLITS, tile = block / INPUT_SPLITS;
    u32 first = tile / COLUMNS * BM, column0 = tile % COLUMNS * BN, pixels = s.count * (H * W);
    if (first >= pixels) return;
    constexpr u32 TERMS = (BACK_PATCH + BK * INPUT_SPLITS - 1) / (BK * INPUT_SPLITS) * BK;
    u32 begin = split * TERMS, end = begin + TERMS < BACK_PATCH ? begin + TERMS : BACK_PATCH;
    product<true>(Inward(grad, packed, first, column0, pixels), begin, end, room);
    if (!split_k_reduce(room, parts, counters, tile, split, INPUT_SPLITS)) return;
    for (u32 e = threadIdx.x; e < BM * BN; e += THREADS) {
        u32 m = first + e / BN, column = column0 + e % BN;
        if (m >= pixels || column >= I) continue;
        u32 to = m * I + column;
        float g = room[e / BN * LINE_C + e % BN];
#ifdef UPSTREAM_C
        apply_upstream_mask(s, to, g, input[to], upstream_taken, grad_input);
#else
        grad_input[to] = g;
#endif
    }
#endif
}
