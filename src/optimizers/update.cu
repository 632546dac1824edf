// The optimizer's step over all parameters in one launch. The parameters stand one after the other, as do their
// gradients and each of their state tensors. Constants: UPDATE_ELEMENT (the rule's statements, see optimizers/mod.rs),
// ROW (numbers in a row of state), SQUARES (how many sums of squares the gradients' kernels left), RUNNING (numbers of
// running statistics), STEPS (length of the list of steps). A block updates the 1024 numbers of one Piece.

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

#define OWN s.own
#define SLOT(i) state[(i) * ROW + e]

extern "C" __global__ void __launch_bounds__(256)
    update(Step *now, const Step *steps, State *progress, Found *found, const Piece *pieces, float *weights, const float *grads,
           float *state, const double *squares, float *packed, float *running, const float *moved, u32 *counter) {
    __shared__ double scratch[256];
    const Step s = *now;
    const Piece p = pieces[blockIdx.x];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < SQUARES; i += 256) sum += squares[i];
    double norm = sqrt(block_sum(sum, scratch));
    double loss = progress->loss;
    // The limit is MAX_NORM of optimizers/mod.rs. NaN compares false, so it is never applied.
    bool spoilt = false;
    bool applied = !progress->latched && loss - loss == 0.0 && norm < 1e19;
    if (applied) {
        float clip = 1.0f;
        if (s.clip_norm > 0.0) {
            double wanted = s.clip_norm / (norm + 1e-6);
            clip = (float)(wanted < 1.0 ? wanted : 1.0);
        }
        const float l2 = p.decays ? s.l2 : 0.0f, decay_factor = p.decays ? s.decay_factor : 1.0f;
        for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) {
            float w = weights[e], g = clip * grads[e] + l2 * w;
            UPDATE_ELEMENT
            spoilt |= !(w - w == 0.0f);
            weights[e] = w;
            pack_one(p, e, w, packed);
        }
        for (u32 i = blockIdx.x * 256 + threadIdx.x; i < RUNNING; i += gridDim.x * 256) running[i] = moved[i];
    }
    if (spoilt) atomicOr(&progress->spoilt, 1u);
    if (!last_block(counter, gridDim.x) || threadIdx.x != 0) return;
    // Atomic too, so that it is read where the other blocks wrote it.
    u32 any_spoilt = atomicOr(&progress->spoilt, 0u);
    u32 at = progress->cursor;
    Found f = {s.number, loss, norm, progress->correct, applied, any_spoilt, 0};
    found[at] = f;
    if (!applied || any_spoilt) progress->latched = 1;
    progress->cursor = at + 1;
    if (at + 1 < STEPS) *now = steps[at + 1];
}

#undef OWN
#undef SLOT
