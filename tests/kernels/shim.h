// Enough of CUDA for a host compiler to run the kernels: the threads of a block are fibers that take turns at barriers,
// blocks run one after the other, and the tensor cores' products are computed as the PTX manual lays them out. Taking
// turns backwards must not change any result: where it does, a barrier is missing.
#define HOST_SHIM
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct Three {
    unsigned x, y, z;
};
static Three threadIdx, blockIdx, blockDim, gridDim;
struct __attribute__((aligned(16))) float4 {
    float x, y, z, w;
};

enum Waits { RUNS, AT_BLOCK, AT_WARP, ENDED };
struct Fiber {
    jmp_buf at;
    ucontext_t first;
    bool begun;
    Waits waits;
};
static const unsigned STACK = 64 << 10, MOST = 1024;
static Fiber fibers[MOST];
static std::vector<char> stacks;
static unsigned current;
static jmp_buf scheduler;
static void *function;
static unsigned argument_count;
static void **arguments;

// The asynchronous copies that a thread has begun. Forwards, each is done as late as its wait allows, so that a missing
// wait shows; backwards at once, so that a copy into what is still read shows.
struct Copy {
    void *to;
    const void *from;
    unsigned bytes, group;
    bool inside;
};
struct Copies {
    std::vector<Copy> begun;
    unsigned group;
};
static Copies copies[MOST];
static bool at_once;

static void do_copy(const Copy &copy) {
    if (copy.inside)
        memcpy(copy.to, copy.from, copy.bytes);
    else
        memset(copy.to, 0, copy.bytes);
}
static void copy_async(void *to, const void *from, unsigned bytes, bool inside) {
    if ((uintptr_t)to % bytes || (inside && (uintptr_t)from % bytes)) fprintf(stderr, "an asynchronous copy is not aligned\n"), abort();
    Copies &mine = copies[current];
    Copy copy = {to, from, bytes, mine.group, inside};
    if (at_once)
        do_copy(copy);
    else
        mine.begun.push_back(copy);
}
static void copy_async_16(float *to, const float *from, bool inside) { copy_async(to, from, 16, inside); }
static void copy_async_4(float *to, const float *from, bool inside) { copy_async(to, from, 4, inside); }
static void commit_copies() { copies[current].group++; }
template <int groups> static void wait_for_copies() {
    Copies &mine = copies[current];
    size_t done = 0;
    for (; done < mine.begun.size() && mine.begun[done].group + groups < mine.group; done++) do_copy(mine.begun[done]);
    mine.begun.erase(mine.begun.begin(), mine.begun.begin() + done);
}

// Calls the function with all arguments.
template <size_t... I> static void call_with(std::index_sequence<I...>) {
    if (argument_count == sizeof...(I)) {
        ((void (*)(std::enable_if_t<I + 1, void *>...))function)(arguments[I]...);
    } else if constexpr (sizeof...(I) < 20) {
        call_with(std::make_index_sequence<sizeof...(I) + 1>());
    } else {
        fprintf(stderr, "a kernel takes %u arguments\n", argument_count), abort();
    }
}

static void call() {
    call_with(std::make_index_sequence<1>());
    if (!copies[current].begun.empty()) fprintf(stderr, "a thread ends before its copies\n"), abort();
    fibers[current].waits = ENDED;
    _longjmp(scheduler, 1);
}

static void wait(Waits how) {
    fibers[current].waits = how;
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}
static void __syncthreads() { wait(AT_BLOCK); }
static void warp_barrier() { wait(AT_WARP); }
static void __threadfence() {}

static void go_on(unsigned i) {
    Fiber &f = fibers[i];
    current = i;
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = stacks.data() + (size_t)i * STACK;
    f.first.uc_stack.ss_size = STACK;
    f.first.uc_link = nullptr;
    makecontext(&f.first, call, 0);
    setcontext(&f.first);
}

// What `extern __shared__` names on a GPU. A GPU does not clear it either. A few more numbers show whether a block writes
// beyond its end.
static std::vector<uint64_t> dynamic_shared_memory;
static const unsigned BEYOND = 64;

static void run_block(bool backwards) {
    unsigned n = blockDim.x;
    for (unsigned i = 0; i < n; i++) fibers[i].begun = false, fibers[i].waits = RUNS, copies[i].group = 0;
    std::fill(dynamic_shared_memory.begin(), dynamic_shared_memory.end(), ~0ull); // NaN.
    for (unsigned ended = 0; ended < n;) {
        for (unsigned k = 0; k < n; k++) {
            unsigned i = backwards ? n - 1 - k : k;
            if (fibers[i].waits == RUNS) go_on(i);
        }
        bool moved = false, all = true;
        ended = 0;
        for (unsigned w = 0; w < n; w += 32) {
            bool warp = true;
            for (unsigned i = w; i < std::min(n, w + 32); i++) warp &= fibers[i].waits == AT_WARP;
            for (unsigned i = w; warp && i < std::min(n, w + 32); i++) fibers[i].waits = RUNS;
            moved |= warp;
        }
        for (unsigned i = 0; i < n; i++) {
            all &= fibers[i].waits == AT_BLOCK;
            ended += fibers[i].waits == ENDED;
        }
        for (unsigned i = 0; all && i < n; i++) fibers[i].waits = RUNS;
        if (!moved && !all && ended < n) {
            fprintf(stderr, "the threads of a block wait at different barriers, or some have left\n");
            abort();
        }
    }
    for (unsigned i = 0; i < BEYOND; i++)
        if (*(dynamic_shared_memory.end() - 1 - i) != ~0ull)
            fprintf(stderr, "a block writes beyond its shared memory\n"), abort();
}

#define dynamic_shared(type, name) type *name = (type *)dynamic_shared_memory.data()
static void wait_for_earlier_launches() {} // Launches run one after the other.

EXPORT void launch(void *kernel, const unsigned *grid, unsigned block, unsigned shared, unsigned count, void **values, int backwards) {
    stacks.resize((size_t)MOST * STACK);
    dynamic_shared_memory.resize((shared + 7) / 8 + BEYOND);
    at_once = backwards;
    function = kernel, argument_count = count, arguments = values;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned k = 0; k < blocks; k++) {
        unsigned b = backwards ? blocks - 1 - k : k;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        run_block(backwards);
    }
}

template <class T> static T __ldcg(const T *at) { return *at; }
static unsigned atomicAdd(unsigned *at, unsigned by) {
    unsigned was = *at;
    *at += by;
    return was;
}

static unsigned atomicOr(unsigned *at, unsigned bits) {
    unsigned was = *at;
    *at |= bits;
    return was;
}

static uint32_t bits_of(float v) {
    uint32_t b;
    memcpy(&b, &v, 4);
    return b;
}
static float float_of(uint32_t b) {
    float v;
    memcpy(&v, &b, 4);
    return v;
}
// To ten bits, ties away from zero.
static uint32_t to_tf32(float v) { return v - v == 0 ? (bits_of(v) + 0x1000) & ~0x1fffu : bits_of(v); }
// To seven bits, ties to even.
static uint32_t one_bf16(float v) { return v - v == 0 ? (bits_of(v) + 0x7fff + (bits_of(v) >> 16 & 1)) >> 16 : bits_of(v) >> 16; }
static uint32_t to_bf16(float low, float high) { return one_bf16(low) | one_bf16(high) << 16; }

struct Fragments {
    float a[16][16], b[16][8];
};
static Fragments warps[MOST / 32];

static void warp_product(float *c, int terms) {
    Fragments &f = warps[threadIdx.x / 32];
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    warp_barrier();
    for (int i = 0; i < 4; i++) {
        double sum = c[i];
        for (int k = 0; k < terms; k++) sum += (double)f.a[group + i / 2 * 8][k] * f.b[k][2 * member + i % 2];
        c[i] = (float)sum;
    }
    warp_barrier();
}
static void mma_tf32(float *c, const uint32_t *a, const uint32_t *b) {
    Fragments &f = warps[threadIdx.x / 32];
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) f.a[group + i % 2 * 8][member + i / 2 * 4] = float_of(a[i]);
    for (int i = 0; i < 2; i++) f.b[member + 4 * i][group] = float_of(b[i]);
    warp_product(c, 8);
}
static void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    Fragments &f = warps[threadIdx.x / 32];
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) f.a[group + i % 2 * 8][2 * member + i / 2 * 8 + h] = float_of((h ? a[i] >> 16 : a[i] & 0xffff) << 16);
    for (int i = 0; i < 2; i++)
        for (int h = 0; h < 2; h++) f.b[2 * member + 8 * i + h][group] = float_of((h ? b[i] >> 16 : b[i] & 0xffff) << 16);
    warp_product(c, 16);
}
