// Batch normalisation with what follows it: shortcut, ReLU, 2x2 pooling. Constants: H W C (the input), RELU, POOL, SKIP
// (a shortcut is added), SHARDS (blocks that sum), SCALE (0 where there is no weight: it is 1), MOMENTUM, EPSILON. Sums are
// f64 over runs of at most 64 f32 differences.

constexpr int PH = POOL ? H / 2 : H, PW = POOL ? W / 2 : W;
__device__ __forceinline__ float weight_of(const float *weight, u32 c) { return SCALE ? weight[c] : 1.0f; }

constexpr u32 LANES = C < 256 ? C : 256, GROUPS = 256 / LANES;

// What the layer keeps, channel by channel.
struct Channels {
    float mean[C], inverse[C];
    float scale[C], shift[C];  // forward: y = x * scale + shift
    float a[C], b[C], c[C];    // backward: dx = a * g + b * x + c
};

// Where the pixel stands that output (pixel, channel) took.
__device__ __forceinline__ u32 chosen(u32 pixel, u32 place) {
    if (!POOL) return pixel;
    u32 image = pixel / (PH * PW), y = pixel / PW % PH * 2 + place / 2, x = pixel % PW * 2 + place % 2;
    return (image * H + y) * W + x;
}

// Adds up this block's two sums of each channel, and says whether it was the last to do so.
__device__ __forceinline__ void sum_up(u32 channel, double one, double two, double *scratch, double *parts) {
    u32 group = threadIdx.x / LANES;
    scratch[threadIdx.x] = one;
    scratch[256 + threadIdx.x] = two;
    __syncthreads();
    if (group == 0 && channel < C) {
        one = two = 0.0;
        for (u32 g = 0; g < GROUPS; g++) {
            one += scratch[g * LANES + threadIdx.x];
            two += scratch[256 + g * LANES + threadIdx.x];
        }
        parts[(blockIdx.x * 2) * C + channel] = one;
        parts[(blockIdx.x * 2 + 1) * C + channel] = two;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(256)
    moments(const u64 *members, const Step *now, const float *x, const float *weight, const float *bias, const float *running_mean,
            const float *running_var, float *moved_mean, float *moved_var, Channels *kept, double *parts, u32 *counter) {
    move_to_member(members, 1, now, x, weight, bias, running_mean, running_var, moved_mean, moved_var, kept, parts, counter);
    __shared__ double scratch[512];
    u32 rows = now->count * (H * W);
    u32 begin = cut(rows, SHARDS, blockIdx.x), end = cut(rows, SHARDS, blockIdx.x + 1);
    for (u32 c0 = 0; c0 < C; c0 += LANES) {
        u32 channel = c0 + threadIdx.x % LANES, group = threadIdx.x / LANES;
        double sum = 0.0, square = 0.0;
        if (group < GROUPS && channel < C) {
            // Differences from the first pixel, which is about as far from the mean as any: no digits cancel.
            float origin = x[channel];
            u32 row = begin + group;
            while (row < end) {
                float s = 0.0f, q = 0.0f;
                for (int n = 0; n < 64 && row < end; n++, row += GROUPS) {
                    float d = x[(u64)row * C + channel] - origin;
                    s += d;
                    q = fmaf(d, d, q);
                }
                sum += s;
                square += q;
            }
        }
        sum_up(channel, sum, square, scratch, parts);
    }
    if (!last_block(counter, SHARDS)) return;
    for (u32 c = threadIdx.x; c < C; c += 256) {
        double sum = 0.0, square = 0.0, m = rows;
        for (u32 i = 0; i < SHARDS; i++) sum += __ldcg(parts + 2 * i * C + c), square += __ldcg(parts + (2 * i + 1) * C + c);
        double shifted = sum / m, var = square / m - shifted * shifted, mean = (double)x[c] + shifted;
        var = var < 0.0 ? 0.0 : var;
        float inverse = (float)(1.0 / sqrt(var + EPSILON));
        double unbiased = m / (m - 1.0 > 1.0 ? m - 1.0 : 1.0);
        moved_mean[c] = (float)((1.0 - MOMENTUM) * running_mean[c] + MOMENTUM * mean);
        moved_var[c] = (float)((1.0 - MOMENTUM) * running_var[c] + MOMENTUM * (var * unbiased));
        kept->mean[c] = (float)mean;
        kept->inverse[c] = inverse;
        kept->scale[c] = weight_of(weight, c) * inverse;
        kept->shift[c] = bias[c] - (float)mean * kept->scale[c];
    }
}

// While scoring: by the running statistics.
extern "C" __global__ void __launch_bounds__(256)
    eval_coefficients(const u64 *members, const float *weight, const float *bias, const float *running_mean, const float *running_var,
                      Channels *kept) {
    move_to_member(members, 1, weight, bias, running_mean, running_var, kept);
    for (u32 c = threadIdx.x; c < C; c += 256) {
        float scale = weight_of(weight, c) / sqrtf(running_var[c] + (float)EPSILON);
        kept->scale[c] = scale;
        kept->shift[c] = bias[c] - running_mean[c] * scale;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    apply(const u64 *members, const Step *now, const float *x, const Channels *kept, const float *skip, float *output, u8 *argmax) {
    move_to_member(members, 1, now, x, kept, skip, output, argmax);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * (PH * PW * C)) return;
    u32 c = e % C, pixel = e / C, place = 0;
    float scale = kept->scale[c], shift = kept->shift[c];
    float best = fmaf(x[(u64)chosen(pixel, 0) * C + c], scale, shift);
    if (POOL) {
        for (u32 p = 1; p < 4; p++) {
            float v = fmaf(x[(u64)chosen(pixel, p) * C + c], scale, shift);
            if (beats(v, best)) best = v, place = p;
        }
        argmax[e] = (u8)place;
    }
    if (SKIP) best += skip[e];
    output[e] = RELU ? relu(best) : best;
}

// The sums that the gradients need: of the gradient, and of its product with the input's distance from the mean. What
// ReLU let through goes to `masked` where a shortcut wants it.
extern "C" __global__ void __launch_bounds__(256)
    backward_reduce(const u64 *members, const Step *now, const float *x, const float *grad, const float *output, const u8 *argmax,
                    const float *weight, float *masked, float *grad_weight, float *grad_bias, double *squares, Channels *kept, double *parts,
                    u32 *counter) {
    move_to_member(members, 1, now, x, grad, output, argmax, weight, masked, grad_weight, grad_bias, squares, kept, parts, counter);
    __shared__ double scratch[512];
    u32 rows = now->count * (PH * PW);
    u32 begin = cut(rows, SHARDS, blockIdx.x), end = cut(rows, SHARDS, blockIdx.x + 1);
    for (u32 c0 = 0; c0 < C; c0 += LANES) {
        u32 channel = c0 + threadIdx.x % LANES, group = threadIdx.x / LANES;
        double sum = 0.0, product = 0.0;
        if (group < GROUPS && channel < C) {
            float mean = kept->mean[channel];
            u32 row = begin + group;
            while (row < end) {
                float s = 0.0f, q = 0.0f;
                for (int n = 0; n < 64 && row < end; n++, row += GROUPS) {
                    u64 e = (u64)row * C + channel;
                    float g = RELU && output[e] == 0.0f ? 0.0f : grad[e];
                    if (SKIP) masked[e] = g;
                    float d = x[(u64)chosen(row, POOL ? argmax[e] : 0) * C + channel] - mean;
                    s += g;
                    q = fmaf(g, d, q);
                }
                sum += s;
                product += q;
            }
        }
        sum_up(channel, sum, product, scratch, parts);
    }
    if (!last_block(counter, SHARDS)) return;
    double square = 0.0;
    for (u32 c = threadIdx.x; c < C; c += 256) {
        double sum = 0.0, product = 0.0, m = now->count * (H * W);
        for (u32 i = 0; i < SHARDS; i++) sum += __ldcg(parts + 2 * i * C + c), product += __ldcg(parts + (2 * i + 1) * C + c);
        double inverse = kept->inverse[c], scale = weight_of(weight, c) * inverse;
        float of_weight = SCALE ? (float)(product * inverse) : 0.0f, of_bias = (float)sum;
        if (SCALE) grad_weight[c] = of_weight;
        grad_bias[c] = of_bias;
        square += (double)of_weight * of_weight + (double)of_bias * of_bias;
        // With u = (x - mean) * inverse and m rows: dx = weight * inverse * (g - sum(g) / m - u * sum(g * u) / m).
        double slope = -scale * inverse * inverse * product / m;
        kept->a[c] = (float)scale;
        kept->b[c] = (float)slope;
        kept->c[c] = (float)(-scale * sum / m - slope * kept->mean[c]);
    }
    square = block_sum(square, scratch);
    if (threadIdx.x == 0) *squares = square;
}

// The input's gradient. With a shortcut `grad` is what `backward_reduce` masked, so that it need not be masked again.
extern "C" __global__ void __launch_bounds__(256)
    backward_apply(const u64 *members, const Step *now, const float *x, const float *grad, const float *output, const u8 *argmax,
                   const Channels *kept, float *grad_input) {
    move_to_member(members, 1, now, x, grad, output, argmax, kept, grad_input);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * (H * W * C)) return;
    u32 c = e % C;
    float g = 0.0f;
    if (POOL) {
        u32 pixel = e / C, column = pixel % W, row = pixel / W % H, image = pixel / (W * H);
        if (row / 2 < PH && column / 2 < PW) {
            u32 from = ((image * PH + row / 2) * PW + column / 2) * C + c;
            if (argmax[from] == row % 2 * 2 + column % 2 && output[from] != 0.0f) g = grad[from];
        }
    } else {
        g = RELU && !SKIP && output[e] == 0.0f ? 0.0f : grad[e];
    }
    grad_input[e] = fmaf(kept->a[c], g, fmaf(kept->b[c], x[e], kept->c[c]));
}
