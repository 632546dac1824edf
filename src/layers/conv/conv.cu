// Convolution with what follows it, forward and backward, as products of matrices that are never laid out: their
// elements are read from the images where they stand. A dense layer is a 1x1 convolution of one pixel.
//
//  forward        C[pixel][output] = patch of the image at pixel x weights,       then bias, ReLU, pooling, dropout
//  input gradient C[pixel][input]  = gradients around the pixel x weights,        then what the layer before lets through
//  weight gradient C[patch][output] = sum over pixels of image x gradient;        one more row of ones makes the bias's
//
// Constants: FORWARD (1 for the kernel `forward`, 0 for `backward`); H W I (input), O, KERNEL, STRIDE, PAD, OH OW (the
// convolution's result); RELU, POOL, DROP (the stream's word, 0 for none), DROP_LIVE, DROP_THRESHOLD, DROP_SCALE; BIAS;
// TRAINED (0 where the weight has no gradient); C and P (a dense layer's inputs are P pixels of C channels, its weights
// in CHW order; else C = I, P = 1); WIDE_O and WIDE_I (rows of the packed weights, multiples of four); PRECISION (0 f32,
// 1 tf32, 2 bf16); SPLITS, INPUT_SPLITS, WEIGHT_SPLITS (blocks that share one sum); WEIGHT_BLOCKS; UPSTREAM_* (see
// kernels.cuh) where the layer before wants its gradient prepared.
// The constants of the variant stand in product.cuh.

constexpr int PATCH = KERNEL * KERNEL * I, BACK_PATCH = KERNEL * KERNEL * O;
constexpr int ROWS = PATCH + BIAS;
// Pixels of the convolution's result that are wanted: with pooling in the order of the windows.
constexpr int PH = POOL ? OH / 2 : OH, PW = POOL ? OW / 2 : OW;
constexpr int WANTED = POOL ? PH * PW * 4 : OH * OW;

// Term `term` of the patch at (y, x) of the image that begins at `image`, and whether it is inside the image. Without
// `edges` every tap is.
template <bool edges> __device__ __forceinline__ const float *patch_at(const float *image, int y, int x, u32 term, bool &inside) {
    u32 tap = term / I;
    int row = y + (int)(tap / KERNEL), column = x + (int)(tap % KERNEL);
    inside = term < PATCH && (!edges || (row >= 0 && row < H && column >= 0 && column < W));
    return image + ((u32)row * W + column) * I + term % I;
}

// The packed weights, in rows of WIDE.
template <u32 WIDE> struct Weights {
    const float *packed;
    u32 column;

    template <class To> __device__ __forceinline__ void b(int j, u32 k, u32 end, To &to) const {
        u32 term = k + term_of_b(j);
        to.four(packed + term * WIDE + column, term < end && column < WIDE);
    }
};

#if LOADS == 2
// A rectangle of pixels of the result, and all pixels that it depends on, with their channels: staged once, every tap of
// every term is read from there.
constexpr int DEPTH = FORWARD ? I : O, LINE_P = DEPTH + 4;
constexpr int RIM_COLUMNS = RIM_W + KERNEL - 1, RIM_PIXELS = (RIM_H + KERNEL - 1) * RIM_COLUMNS;
constexpr int TILE_P = RIM_PIXELS * LINE_P;
constexpr int SLICES = (KERNEL * KERNEL * DEPTH + BK - 1) / BK, WEIGHT_STAGES = STAGES < SLICES ? STAGES : SLICES;
// The pixels that are divided into rectangles.
constexpr int AREA_H = FORWARD ? PH * (POOL ? 2 : 1) : H, AREA_W = FORWARD ? PW * (POOL ? 2 : 1) : W;
constexpr u32 RIMS_X = (AREA_W + RIM_W - 1) / RIM_W, RIMS = (AREA_H + RIM_H - 1) / RIM_H * RIMS_X;

static_assert(STRIDE == 1 && DEPTH % 8 == 0, "neighbours depend on neighbours, and eight terms on one tap");
static_assert(RIM_H * RIM_W <= BM && (!(FORWARD && POOL) || (RIM_H % 2 == 0 && RIM_W % 2 == 0)), "whole windows");
static_assert(ROOM >= TILE_P + WEIGHT_STAGES * TILE_B, "room for the rectangle and the weights");

// The place of a tile's line in its rectangle: with pooling in the order of the windows. Returns false beyond it.
__device__ __forceinline__ bool place_of_line(int line, int &y, int &x) {
    if (FORWARD && POOL) {
        int window = line / 4, wide = RIM_W / 2;
        y = window / wide * 2 + line % 4 / 2, x = window % wide * 2 + line % 2;
    } else {
        y = line / RIM_W, x = line % RIM_W;
    }
    return line < RIM_H * RIM_W;
}

struct Rectangle {
    u32 image;
    int y, x;

    __device__ __forceinline__ Rectangle(u32 number) {
        image = number / RIMS;
        y = number % RIMS / RIMS_X * RIM_H, x = number % RIMS_X * RIM_W;
    }
    // The row and column of a tile's line. Returns false if it has none.
    __device__ __forceinline__ bool pixel(int line, int &row, int &column) const {
        bool there = place_of_line(line, row, column);
        row += y, column += x;
        return there && row < AREA_H && column < AREA_W;
    }
};

// The staged pixels as operand a, see `Stage`.
struct RimStage {
    const float *pixels;
    const int (&lines)[LINES];
    u32 first;

    __device__ __forceinline__ int offset(u32 k) const {
        u32 tap = k / DEPTH, y = tap / KERNEL, x = tap % KERNEL;
        // The weights of terms beyond the last tap are zero.
        if (tap >= KERNEL * KERNEL) return 0;
        if (!FORWARD) y = KERNEL - 1 - y, x = KERNEL - 1 - x;
        return (y * RIM_COLUMNS + x) * LINE_P + k % DEPTH;
    }
    __device__ __forceinline__ float one(int i, int k, int r) const { return pixels[lines[i] + offset(first + k) + r]; }
    __device__ __forceinline__ void fours(int k, float (&v)[4][LINES]) const {
        const float *at = pixels + offset(first + k);
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            float4 r = load4(at + lines[i]);
            v[0][i] = r.x, v[1][i] = r.y, v[2][i] = r.z, v[3][i] = r.w;
        }
    }
};

// Like `product`, for the rectangle whose first pixel depends on those from (y, x) on of an image of `height` x `width`.
template <class Operand>
__device__ __forceinline__ void rim_product(const float *image, int height, int width, int y, int x, const Operand &weights, u32 begin, u32 end,
                                            float *room) {
    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
    int lines[LINES];
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        int row, column;
        lines[i] = place_of_line(line_of<true>(i), row, column) ? (row * RIM_COLUMNS + column) * LINE_P : 0;
    }
    for (int e = threadIdx.x; e < RIM_PIXELS * (DEPTH / 4); e += THREADS) {
        int pixel = e / (DEPTH / 4), channel = e % (DEPTH / 4) * 4;
        int row = y + pixel / RIM_COLUMNS, column = x + pixel % RIM_COLUMNS;
        bool inside = row >= 0 && row < height && column >= 0 && column < width;
        copy_async_16(room + pixel * LINE_P + channel, image + ((u32)row * width + column) * DEPTH + channel, inside);
    }
    float *stages = room + TILE_P;
    auto copy = [&](u32 k, int to) {
#pragma unroll
        for (int j = 0; j < FOURS_B; j++) {
            ToShared group = {group_of_b(stages + to * TILE_B, j)};
            weights.b(j, k, end, group);
        }
    };
    auto add = [&](u32 k, int now) { multiply(RimStage{room, lines, k}, stages + now * TILE_B, sum); };
    pipeline<STAGES>(begin, end, copy, add);
    write_sums<true>(sum, room);
}
#endif

#if FORWARD
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
    const float *image[FOURS_A];
    int y[FOURS_A], x[FOURS_A];
    Weights<WIDE_O> weights;

    __device__ __forceinline__ Forward(const float *input, Weights<WIDE_O> weights, u32 first, u32 pixels) : weights(weights) {
#pragma unroll
        for (int j = 0; j < FOURS_A; j++) {
            u32 m = first + line_of_group<true>(j), n, row, col;
            pixel_of(m, n, row, col);
            bool there = m < pixels;
            image[j] = input + (there ? (u64)n * (H * W * I) : 0);
            // Out of sight, so that all is zero.
            y[j] = there ? (int)(row * STRIDE) - PAD : -H - KERNEL;
            x[j] = (int)(col * STRIDE) - PAD;
        }
    }

    template <class To> __device__ __forceinline__ void a(int j, u32 k, u32 end, To &to) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bool inside;
            const float *at = patch_at<true>(image[j], y[j], x[j], k + term_of_group<true>(j) + i, inside);
            if (I % 4 == 0) {
                to.four(at, inside);
                return;
            }
            to.one(i, at, inside);
        }
    }
    template <class To> __device__ __forceinline__ void b(int j, u32 k, u32 end, To &to) const { weights.b(j, k, end, to); }
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    forward(const u64 *members, const Step *now, const float *input, const float *packed, const float *bias, float *output, u8 *argmax, float *parts,
            u32 *counters) {
    move_to_member(members, 1, now, input, packed, bias, output, argmax, parts, counters);
    dynamic_shared(float, room);
    const Step s = *now;
    constexpr u32 COLUMNS = (O + BN - 1) / BN;
    u32 split = blockIdx.x % SPLITS, tile = blockIdx.x / SPLITS;
    u32 column0 = tile % COLUMNS * BN;
    constexpr u32 TERMS = (PATCH + BK * SPLITS - 1) / (BK * SPLITS) * BK;
    u32 begin = split * TERMS, end = begin + TERMS < PATCH ? begin + TERMS : PATCH;
    Weights<WIDE_O> weights = {packed, column0 + column_of_group()};
#if LOADS == 2
    Rectangle rectangle(tile / COLUMNS);
    if (rectangle.image >= s.count) return;
    rim_product(input + (u64)rectangle.image * (H * W * I), H, W, rectangle.y - PAD, rectangle.x - PAD, weights, begin, end, room);
#else
    u32 pixels = s.count * WANTED, first = tile / COLUMNS * BM;
    if (first >= pixels) return;
    product<true>(Forward(input, weights, first, pixels), begin, end, room);
#endif
    if (!split_k_reduce<SPLITS>(room, parts, counters, tile, split)) return;
#if DROP != 0
    u32 threshold = DROP_LIVE ? s.threshold : DROP_THRESHOLD;
    float scale = DROP_LIVE ? s.scale : DROP_SCALE;
    if (s.number == 0) threshold = 0; // Scoring.
#endif
    constexpr int PLACES = POOL ? 4 : 1;
    for (u32 e = threadIdx.x; e < BM / PLACES * BN; e += THREADS) {
        u32 column = column0 + e % BN, line = e / BN * PLACES;
#if LOADS == 2
        int y, x;
        bool there = rectangle.pixel(line, y, x);
        u32 pixel = (rectangle.image * PH + y / (POOL ? 2 : 1)) * PW + x / (POOL ? 2 : 1);
#else
        bool there = first + line < pixels;
        u32 pixel = (first + line) / PLACES;
#endif
        if (column >= O || !there) continue;
        float shift = BIAS ? bias[column] : 0.0f, best = room[line * LINE_C + e % BN] + shift;
        u32 place = 0;
#pragma unroll
        for (int p = 1; p < PLACES; p++) {
            float v = room[(line + p) * LINE_C + e % BN] + shift;
            if (beats(v, best)) best = v, place = p;
        }
        if (RELU) best = relu(best);
        u32 to = pixel * O + column;
#if DROP != 0
        best *= dropped(s, DROP, threshold, scale, to);
#endif
        output[to] = best;
        if (POOL) argmax[to] = (u8)place;
    }
}
#else
// Sums over the gradients around each pixel of the input.
struct Inward {
    const float *image[FOURS_A];
    int y[FOURS_A], x[FOURS_A];
    Weights<WIDE_I> weights;

    __device__ __forceinline__ Inward(const float *grad, Weights<WIDE_I> weights, u32 first, u32 pixels) : weights(weights) {
#pragma unroll
        for (int j = 0; j < FOURS_A; j++) {
            u32 m = first + line_of_group<true>(j);
            bool there = m < pixels;
            image[j] = grad + (there ? (u64)(m / (H * W)) * (OH * OW * O) : 0);
            y[j] = there ? (int)(m / W % H) + PAD : -1 - KERNEL * STRIDE;
            x[j] = (int)(m % W) + PAD;
        }
    }

    template <class To> __device__ __forceinline__ void a(int j, u32 k, u32 end, To &to) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 term = k + term_of_group<true>(j) + i, tap = term / O;
            int row = y[j] - (int)(tap / KERNEL), column = x[j] - (int)(tap % KERNEL);
            bool inside = term < BACK_PATCH && row >= 0 && column >= 0 && row % STRIDE == 0 && column % STRIDE == 0 && row / STRIDE < OH &&
                          column / STRIDE < OW;
            const float *at = image[j] + ((u32)(row / STRIDE) * OW + column / STRIDE) * O + term % O;
            if (O % 4 == 0) {
                to.four(at, inside);
                return;
            }
            to.one(i, at, inside);
        }
    }
    template <class To> __device__ __forceinline__ void b(int j, u32 k, u32 end, To &to) const { weights.b(j, k, end, to); }
};

// Sums over all pixels of the result.
struct Weigh {
    const float *input, *grad;
    u32 line, column;

    template <class To> __device__ __forceinline__ void a(int j, u32 k, u32 end, To &to) const {
        u32 m = k + term_of_group<false>(j), rest = m % (OH * OW);
        const float *image = input + (u64)(m / (OH * OW)) * (H * W * I);
        int y = (int)(rest / OW * STRIDE) - PAD, x = (int)(rest % OW * STRIDE) - PAD;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 term = line + i;
            bool inside;
            const float *at = patch_at<PAD != 0>(image, y, x, term, inside);
            inside = inside && m < end;
            if (I % 4 == 0 && term < PATCH) {
                to.four(at, inside);
                return;
            }
            // Behind the patch: the line of ones, and zeros.
            if (term < PATCH)
                to.one(i, at, inside);
            else
                to.constant(i, BIAS && m < end && term == PATCH ? 1.0f : 0.0f);
        }
    }
    template <class To> __device__ __forceinline__ void b(int j, u32 k, u32 end, To &to) const {
        u32 m = k + term_of_b(j);
        const float *at = grad + (u64)m * O + column;
        if (O % 4 == 0) {
            to.four(at, m < end && column < O);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) to.one(i, at + i, m < end && column + i < O);
        }
    }
};

// The first WEIGHT_BLOCKS blocks make the parameters' gradients (in PyTorch's order) and the sums of their squares, the
// rest the input's gradient: the two need nothing of each other.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    backward(const u64 *members, const Step *now, const float *input, const float *grad, const float *packed, float *grad_weight, float *grad_bias,
             double *squares, float *weight_parts, u32 *weight_counters, float *grad_input, const u8 *upstream_taken, float *parts, u32 *counters) {
    move_to_member(members, 1, now, input, grad, packed, grad_weight, grad_bias, squares, weight_parts, weight_counters, grad_input,
                   upstream_taken, parts, counters);
    dynamic_shared(float, room);
    const Step s = *now;
    if (blockIdx.x < WEIGHT_BLOCKS) {
        constexpr u32 COLUMNS = (O + BN - 1) / BN;
        u32 split = blockIdx.x % WEIGHT_SPLITS, tile = blockIdx.x / WEIGHT_SPLITS;
        u32 line0 = tile / COLUMNS * BM, column0 = tile % COLUMNS * BN;
        u32 pixels = s.count * (OH * OW);
        u32 terms = (pixels + BK * WEIGHT_SPLITS - 1) / (BK * WEIGHT_SPLITS) * BK;
        u32 begin = split * terms, end = begin + terms < pixels ? begin + terms : pixels;
        Weigh from = {input, grad, line0 + line_of_group<false>(0), column0 + column_of_group()};
        product<false>(from, begin, end, room);
        if (!split_k_reduce<WEIGHT_SPLITS>(room, weight_parts, weight_counters, tile, split)) return;
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
    u32 column0 = tile % COLUMNS * BN;
    constexpr u32 TERMS = (BACK_PATCH + BK * INPUT_SPLITS - 1) / (BK * INPUT_SPLITS) * BK;
    u32 begin = split * TERMS, end = begin + TERMS < BACK_PATCH ? begin + TERMS : BACK_PATCH;
    Weights<WIDE_I> weights = {packed, column0 + column_of_group()};
#if LOADS == 2
    Rectangle rectangle(tile / COLUMNS);
    if (rectangle.image >= s.count) return;
    int y = rectangle.y + PAD - (KERNEL - 1), x = rectangle.x + PAD - (KERNEL - 1);
    rim_product(grad + (u64)rectangle.image * (OH * OW * O), OH, OW, y, x, weights, begin, end, room);
#else
    u32 first = tile / COLUMNS * BM, pixels = s.count * (H * W);
    if (first >= pixels) return;
    product<true>(Inward(grad, weights, first, pixels), begin, end, room);
#endif
    if (!split_k_reduce<INPUT_SPLITS>(room, parts, counters, tile, split)) return;
    for (u32 e = threadIdx.x; e < BM * BN; e += THREADS) {
        u32 column = column0 + e % BN;
#if LOADS == 2
        int row, at;
        bool there = rectangle.pixel(e / BN, row, at);
        u32 pixel = (rectangle.image * H + row) * W + at;
#else
        u32 pixel = first + e / BN;
        bool there = pixel < pixels;
#endif
        if (column >= I || !there) continue;
        u32 to = pixel * I + column;
        float g = room[e / BN * LINE_C + e % BN];
#ifdef UPSTREAM_C
        apply_upstream_mask(s, to, g, input[to], upstream_taken, grad_input);
#else
        grad_input[to] = g;
#endif
    }
#endif
}
#endif
