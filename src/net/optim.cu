// SGD, Adam and AdamW over all parameters in one launch, with the arithmetic of train/optim.rs. The parameters stand one
// after the other, as do their gradients and moments. Constants: RULE (0 SGD, 1 Adam and AdamW), SQUARES (how many sums
// of squares the gradients' kernels left), RUNNING (numbers of running statistics), STEPS (length of the list of steps).
// A block does the 1024 numbers of one Piece.

struct Piece {
    u32 begin, end;   // in the row of all parameters
    u32 first;        // where its parameter begins there
    u32 decays;       // whether weight decay acts on it
    u32 inputs;       // of a weight: its inputs (of a dense layer: channels times pixels); 0 for what is not packed
    u32 outputs;
    u32 taps;         // the kernel's places
    u32 channels;     // of a dense layer's input (else its inputs)
    u32 pixels;       // of a dense layer's input (else 1)
    u32 wide_outputs, wide_inputs; // rows of the packed weights
    u32 forward, backward;         // where they begin; `backward` is 0 where the input's gradient is not wanted
};

// A weight's copies for the products: [place, input][output] and [place, output][input].
__device__ __forceinline__ void pack_one(const Piece &p, u32 e, float w, float *packed) {
    if (p.inputs == 0) return;
    u32 at = e - p.first, tap = at % p.taps, rest = at / p.taps % p.inputs, o = at / (p.taps * p.inputs);
    u32 i = rest % p.pixels * p.channels + rest / p.pixels;
    packed[p.forward + (tap * p.inputs + i) * p.wide_outputs + o] = w;
    if (p.backward) packed[p.backward + (tap * p.outputs + o) * p.wide_inputs + i] = w;
}

extern "C" __global__ void __launch_bounds__(256) pack(const Piece *pieces, const float *weights, float *packed) {
    const Piece p = pieces[blockIdx.x];
    for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) pack_one(p, e, weights[e], packed);
}

extern "C" __global__ void __launch_bounds__(256)
    update(Step *now, const Step *steps, State *state, Found *found, const Piece *pieces, float *weights, const float *grads, float *first,
           float *second, const double *squares, float *packed, float *running, const float *moved, u32 *counter) {
    __shared__ double scratch[256];
    const Step s = *now;
    const Piece p = pieces[blockIdx.x];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < SQUARES; i += 256) sum += squares[i];
    double norm = sqrt(block_sum(sum, scratch));
    double loss = state->loss;
    // As in train/optim.rs; what is no number is below nothing.
    bool applied = !state->latched && loss - loss == 0.0 && norm < 1e19;
    if (applied) {
        float clip = 1.0f;
        if (s.clip_norm > 0.0) {
            double wanted = s.clip_norm / (norm + 1e-6);
            clip = (float)(wanted < 1.0 ? wanted : 1.0);
        }
        float l2 = p.decays ? s.l2 : 0.0f, shrink = p.decays ? s.shrink : 1.0f;
        for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) {
            float w = weights[e], g = clip * grads[e] + l2 * w, m = first[e];
#if RULE == 0
            m = s.momentum * m + g;
            w -= s.rate * (s.nesterov != 0.0f ? g + s.momentum * m : m);
#else
            float v = second[e];
            m = s.beta1 * m + s.rest1 * g;
            v = s.beta2 * v + s.rest2 * (g * g);
            w = shrink * w - s.rate * (m / (sqrtf(v) * s.root2 + 1e-7f));
            second[e] = v;
#endif
            first[e] = m;
            weights[e] = w;
            pack_one(p, e, w, packed);
        }
        for (u32 i = blockIdx.x * 256 + threadIdx.x; i < RUNNING; i += gridDim.x * 256) running[i] = moved[i];
    }
    if (!last_block(counter, gridDim.x) || threadIdx.x != 0) return;
    u32 at = state->cursor;
    Found f = {s.number, loss, norm, state->correct, applied};
    found[at] = f;
    if (!applied) state->latched = 1;
    state->cursor = at + 1;
    if (at + 1 < STEPS) *now = steps[at + 1];
}
