// ReLU on its own. Constants: LEN (numbers of an image).

extern "C" __global__ void __launch_bounds__(256) rectify(const Step *now, const float *x, float *output) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) output[e] = relu(x[e]);
}

// What ReLU let through of a gradient.
extern "C" __global__ void __launch_bounds__(256) rectify_backward(const Step *now, const float *grad, const float *output, float *to) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] = output[e] == 0.0f ? 0.0f : grad[e];
}
