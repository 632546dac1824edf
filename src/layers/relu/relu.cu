// ReLU that is not fused into another layer. Constants: LEN (elements of an image).

extern "C" __global__ void __launch_bounds__(256) relu_forward(const u64 *members, const Step *now, const float *x, float *output) {
    move_to_member(members, 1, now, x, output);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) output[e] = relu(x[e]);
}

// Copies the gradient where the output is not zero; the rest is zero.
extern "C" __global__ void __launch_bounds__(256)
    relu_backward(const u64 *members, const Step *now, const float *grad, const float *output, float *to) {
    move_to_member(members, 1, now, grad, output, to);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] = output[e] == 0.0f ? 0.0f : grad[e];
}
