// What every kernel begins with. A kernel's sizes are constants: each use of a source is compiled with its own
// definitions in front. What changes from step to step stands in device memory (Step), so that a captured graph of
// launches stays good. The sources are CUDA C++ for NVRTC without any header, and a host compiler takes them too when
// it is given what CUDA has built in (blockIdx, __syncthreads, the tensor cores' product and so on). The structs Step, Found and
// State are declared in backend/gpu/records.rs, whose text stands before this one.

#ifndef HOST_SHIM

__device__ __forceinline__ u32 to_tf32(float v) {
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

// `low` in the lower half.
__device__ __forceinline__ u32 to_bf16(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// c += a * b for 16 x 8 x 8 numbers, spread over a warp as the PTX manual says.
__device__ __forceinline__ void mma_tf32(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for 16 x 8 x 16 numbers.
__device__ __forceinline__ void mma_bf16(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// `type *name`: the block's dynamic shared memory, of as many bytes as the launch asks for.
#define dynamic_shared(type, name)                            \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type *name = (type *)name##_bytes

// Waits until the launches before this one have ended and what they wrote can be read, where this one starts early.
__device__ __forceinline__ void wait_for_earlier_launches() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif

// Whether this is the last of `blocks` blocks to arrive here, so that it sees what all of them wrote. The counter is
// zero before and after. Every thread of the block must come.
__device__ __forceinline__ bool last_block(u32 *counter, u32 blocks) {
    __shared__ u32 is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1u) == blocks - 1;
        if (is_last) *counter = 0;
    }
    __syncthreads();
    bool last = is_last != 0;
    __threadfence();
    __syncthreads();
    return last;
}

// Where run i of `parts` of `total` begins.
__device__ __forceinline__ u32 cut(u64 total, u32 parts, u32 i) { return (u32)(total * i / parts); }

// NaN stays NaN.
__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; }

// Whether v takes the place of `best` as the largest: the first of equals stays, and a NaN is larger than all numbers.
__device__ __forceinline__ bool beats(float v, float best) { return v > best || (v != v && best == best); }

// Philox4x32-10, and the words of domain/rng.rs.
struct Words {
    u32 at[4];
};

__device__ __forceinline__ Words random_block(u64 seed, u32 stream, u64 step, u32 index) {
    u32 c0 = index, c1 = (u32)step, c2 = (u32)(step >> 32), c3 = stream;
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
        c1 = (u32)b;
        c3 = (u32)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words w = {{c0, c1, c2, c3}};
    return w;
}

// What a dropout multiplies element `index` of its layer's output by. DROP is the stream's word; where the architecture
// pins the share, DROP_THRESHOLD and DROP_SCALE are its.
__device__ __forceinline__ float dropped(const Step &s, u32 stream, u32 threshold, float scale, u32 index) {
    if (threshold == 0) return 1.0f;
    Words w = random_block(s.seed, stream, s.number, index / 4);
    return w.at[index % 4] >> 8 >= threshold ? scale : 0.0f;
}

// The sum of the block's values, in the same order every time. `scratch` holds one number a thread; every thread must
// come, and the sum is thread 0's.
__device__ __forceinline__ double block_sum(double v, double *scratch) {
    u32 t = threadIdx.x;
    scratch[t] = v;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) scratch[t] += scratch[t + half];
        __syncthreads();
    }
    double sum = scratch[0];
    __syncthreads();
    return sum;
}

#ifdef UPSTREAM_C
// The gradient of the output of the layer before, which ends in ReLU (with 2x2 pooling, with dropout), on its way to
// that layer's convolution: element e of the output, `g` its gradient. UPSTREAM_H x UPSTREAM_W x UPSTREAM_C is the output,
// UPSTREAM_OH x UPSTREAM_OW the convolution's result. What pooling left out at odd edges is zero from the beginning.
__device__ __forceinline__ void apply_upstream_mask(const Step &s, u32 e, float g, float output, const u8 *taken, float *grad) {
    float scale = UPSTREAM_DROP == 0 ? 1.0f : UPSTREAM_DROP == 1 ? s.scale : UPSTREAM_SCALE;
    g = output == 0.0f ? 0.0f : g * scale;
    if (UPSTREAM_POOL) {
        u32 c = e % UPSTREAM_C, pixel = e / UPSTREAM_C;
        u32 x = pixel % UPSTREAM_W, y = pixel / UPSTREAM_W % UPSTREAM_H, image = pixel / (UPSTREAM_W * UPSTREAM_H);
        u64 first = ((u64)(image * UPSTREAM_OH + 2 * y) * UPSTREAM_OW + 2 * x) * UPSTREAM_C + c;
        u32 place = taken[e];
        grad[first] = place == 0 ? g : 0.0f;
        grad[first + UPSTREAM_C] = place == 1 ? g : 0.0f;
        grad[first + UPSTREAM_OW * UPSTREAM_C] = place == 2 ? g : 0.0f;
        grad[first + UPSTREAM_OW * UPSTREAM_C + UPSTREAM_C] = place == 3 ? g : 0.0f;
    } else {
        grad[e] = g;
    }
}
#endif
