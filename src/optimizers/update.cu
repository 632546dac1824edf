// The optimizer's step over all parameters in one launch. Constants: UPDATE_ELEMENT and possibly UPDATE_FILTER (the rule's
// statements, see optimizers/mod.rs), ROW (numbers in a row of state), RUNNING (numbers of running statistics), STEPS
// (length of the list of steps). A block updates the 1024 numbers of one Piece. `average` holds a row of averaged
// weights and the averaged running statistics, or is null.

// A weight's copies for the products: [place, input][output] and [place, output][input].
__device__ __forceinline__ void pack_one(const Piece &p, u32 e, float w, float *packed) {
    if (p.inputs == 0) return;
    u32 at = e - p.first, tap = at % p.taps, rest = at / p.taps % p.inputs, o = at / (p.taps * p.inputs);
    u32 i = rest % p.pixels * p.channels + rest / p.pixels;
    packed[p.forward + (tap * p.inputs + i) * p.wide_outputs + o] = w;
    if (p.backward) packed[p.backward + (tap * p.outputs + o) * p.wide_inputs + i] = w;
}

extern "C" __global__ void __launch_bounds__(256) pack(const u64 *members, const Piece *pieces, const float *weights, float *packed) {
    move_to_member(members, 1, pieces, weights, packed);
    const Piece p = pieces[blockIdx.x];
    for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) pack_one(p, e, weights[e], packed);
}

// Exchanges the weights and running statistics with their averages.
extern "C" __global__ void __launch_bounds__(256) swap_average(const u64 *members, float *weights, float *running, float *average) {
    move_to_member(members, 1, weights, running, average);
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= ROW + RUNNING) return;
    float *now = i < ROW ? weights + i : running + (i - ROW);
    float w = *now;
    *now = average[i];
    average[i] = w;
}

// Moves an average by this share of its way to `w`. A share of 1 begins it; equal numbers keep it exactly.
__device__ __forceinline__ float moved_average(float average, float w, float share) {
    return share < 1.0f ? average + share * (w - average) : w;
}

#define OWN own
#define SLOT(i) state[(i) * ROW + e]

extern "C" __global__ void __launch_bounds__(256)
    update(const u64 *members, Step *now, const Step *steps, ListProgress *progress, StepOutcome *outcomes, const Piece *pieces, float *weights,
           const float *grads, float *state, const double *squares, float *packed, float *running, const float *moved, u32 *counter,
           const float *directions, const float *weight_scales, float *average) {
    move_to_member(members, 1, now, steps, progress, outcomes, pieces, weights, grads, state, squares, packed, running, moved, counter,
                   directions, weight_scales, average);
    __shared__ double scratch[256];
    const Step s = *now;
    const Piece p = pieces[blockIdx.x];
    double norm = gradient_norm(squares, scratch);
    double loss = progress->loss;
    // The limit is MAX_NORM of optimizers/mod.rs. NaN compares false, so it is never applied.
    bool not_finite = false;
    bool applied = !progress->latched && loss - loss == 0.0 && norm < 1e19;
    if (applied) {
        const float clip = clip_factor(s.clip_norm, norm), l2 = s.l2[p.group], factor = p.rate_factor;
        // `Coefficients::at` of optimizers/mod.rs.
        float decay_factor = s.decay_factor[p.group], own[COEFFICIENTS];
        for (u32 i = 0; i < COEFFICIENTS; i++) own[i] = s.own[COEFFICIENTS * p.group + i];
        if (factor != 1.0f) {
            own[0] *= factor;
            decay_factor = 1.0f - factor * (1.0f - decay_factor);
        }
        for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) {
            float w = weights[e], g = clip * grads[e] + l2 * w;
            if (factor == 0.0f) {
                // Its layer is frozen.
            } else
#ifdef UPDATE_FILTER
            if (p.matrix) {
                const float direction = directions[e], weight_scale = weight_scales[p.matrix - 1];
                UPDATE_FILTER
            } else
#endif
            UPDATE_ELEMENT
            not_finite |= !(w - w == 0.0f);
            weights[e] = w;
            if (average) average[e] = moved_average(average[e], w, s.average_share);
            pack_one(p, e, w, packed);
        }
        for (u32 i = blockIdx.x * 256 + threadIdx.x; i < RUNNING; i += gridDim.x * 256) {
            running[i] = moved[i];
            if (average) average[ROW + i] = moved_average(average[ROW + i], moved[i], s.average_share);
        }
    }
    if (not_finite) atomicOr(&progress->not_finite, 1u);
    if (!last_block(counter, gridDim.x) || threadIdx.x != 0) return;
    // Atomic too, so that it is read where the other blocks wrote it.
    u32 any_not_finite = atomicOr(&progress->not_finite, 0u);
    u32 at = progress->cursor;
    StepOutcome outcome = {s.number, loss, norm, progress->correct, applied, any_not_finite, 0};
    outcomes[at] = outcome;
    if (!applied || any_not_finite) progress->latched = 1;
    progress->cursor = at + 1;
    if (at + 1 < STEPS) *now = steps[at + 1];
}

#undef OWN
#undef SLOT
