// Global average pooling. Constants: PIXELS (pixels of an image), C (channels).

// Computes the mean of each channel over all pixels.
extern "C" __global__ void __launch_bounds__(256) global_pool_forward(const u64 *members, const Step *now, const float *x, float *output) {
    move_to_member(members, 1, now, x, output);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * C) return;
    const float *from = x + (u64)(e / C) * (PIXELS * C) + e % C;
    float sum = 0.0f;
    for (u32 p = 0; p < PIXELS; p++) sum += from[p * C];
    output[e] = sum / (float)PIXELS;
}

// Gives every pixel an equal share of its channel's gradient.
extern "C" __global__ void __launch_bounds__(256) global_pool_backward(const u64 *members, const Step *now, const float *grad, float *grad_input) {
    move_to_member(members, 1, now, grad, grad_input);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * (PIXELS * C)) return;
    grad_input[e] = grad[e / (PIXELS * C) * C + e % C] / (float)PIXELS;
}
