// Max-pooling on its own. Constants: H W C (the input), KERNEL, STRIDE, OH OW; a thread makes one number.

extern "C" __global__ void __launch_bounds__(256) largest(const u64 *members, const Step *now, const float *x, float *output, u16 *argmax) {
    move_to_member(members, 1, now, x, output, argmax);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * (OH * OW * C)) return;
    u32 c = e % C, column = e / C % OW, row = e / C / OW % OH, image = e / (C * OW * OH);
    const float *window = x + ((u64)(image * H + row * STRIDE) * W + column * STRIDE) * C + c;
    float best = window[0];
    u32 place = 0;
    for (u32 p = 1; p < KERNEL * KERNEL; p++) {
        float v = window[(p / KERNEL * W + p % KERNEL) * C];
        if (beats(v, best)) best = v, place = p;
    }
    output[e] = best;
    argmax[e] = (u16)place;
}

// Every pixel asks the windows that it is in.
extern "C" __global__ void __launch_bounds__(256)
    spread(const u64 *members, const Step *now, const float *grad, const u16 *argmax, float *grad_input) {
    move_to_member(members, 1, now, grad, argmax, grad_input);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * (H * W * C)) return;
    u32 c = e % C, x = e / C % W, y = e / C / W % H, image = e / (C * W * H);
    float sum = 0.0f;
    for (u32 row = y < KERNEL ? 0 : (y - KERNEL) / STRIDE + 1; row < OH && row * STRIDE <= y; row++)
        for (u32 column = x < KERNEL ? 0 : (x - KERNEL) / STRIDE + 1; column < OW && column * STRIDE <= x; column++) {
            u32 from = ((image * OH + row) * OW + column) * C + c;
            if (argmax[from] == (y - row * STRIDE) * KERNEL + (x - column * STRIDE)) sum += grad[from];
        }
    grad_input[e] = sum;
}
