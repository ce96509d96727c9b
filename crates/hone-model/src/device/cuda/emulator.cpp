// Runs the kernels' own text on the processor, one block after the other: for tests of their arithmetic and indices where there is no
// GPU. Each thread of a block is a fibre; barriers and exchanges between lanes give way to the other fibres, whose order is drawn anew
// for each block. Built by the tests with the processor's C++ compiler; includes the kernels (KERNELS) and a table of them (TABLE).

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};

static Index threadIdx, blockIdx, blockDim, gridDim;
unsigned char *dynamic_shared;

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

[[noreturn]] static void fail(const char *why) {
    fprintf(stderr, "emulated kernel: %s (block %u,%u,%u, thread %u)\n", why, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    abort();
}

namespace fibres {
const size_t STACK = 128 << 10;
const size_t MOST_SHARED = 100 << 10;
const unsigned MOST_THREADS = 1024;

struct Barrier {
    unsigned arrived, generation, live;
};
struct Warp {
    Barrier barrier;
    uint64_t numbers[32];
    const void *rows[32];
    unsigned a[32][4], b[32][2];
};
struct Copy {
    void *to;
    const void *from;
};
struct Fibre {
    ucontext_t context;
    jmp_buf here;
    bool is_started, is_done;
    // Copies that were asked for: group by group, the last one still open. They are done when they are waited for, not before.
    std::vector<std::vector<Copy>> copies;
};

static std::vector<Fibre> all(MOST_THREADS);
static std::vector<unsigned char> stacks(STACK *MOST_THREADS);
static std::vector<Warp> warps(MOST_THREADS / 32);
static Barrier block;
static jmp_buf scheduler;
static Fibre *current;
static void (*entry)(void **);
static void **arguments;

static void yield() {
    Index mine = threadIdx;
    if (_setjmp(current->here) == 0) _longjmp(scheduler, 1);
    threadIdx = mine;
}
static void release(Barrier &barrier) {
    barrier.arrived = 0;
    barrier.generation++;
}
static void wait(Barrier &barrier) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.live) release(barrier);
    while (barrier.generation == generation) yield();
}
static void leave(Barrier &barrier) {
    if (--barrier.live > 0 && barrier.arrived == barrier.live) release(barrier);
}
static void body() {
    entry(arguments);
    current->is_done = true;
    leave(block);
    leave(warps[threadIdx.x / 32].barrier);
    _longjmp(scheduler, 1);
}
static Warp &whole_warp() {
    Warp &warp = warps[threadIdx.x / 32];
    if (warp.barrier.live != 32) fail("lanes exchange numbers after one of them has left");
    return warp;
}

static void run_block(std::mt19937 &order) {
    unsigned threads = blockDim.x;
    std::vector<unsigned> turn(threads);
    block = Barrier{0, 0, threads};
    for (unsigned i = 0; i < threads; i++) {
        turn[i] = i;
        all[i].is_started = all[i].is_done = false;
        all[i].copies.assign(1, {});
    }
    for (unsigned i = 0; i < threads / 32; i++) warps[i].barrier = Barrier{0, 0, 32};
    std::shuffle(turn.begin(), turn.end(), order);
    bool is_alive = true;
    while (is_alive) {
        is_alive = false;
        for (volatile unsigned i = 0; i < threads; i = i + 1) {
            current = &all[turn[i]];
            if (current->is_done) continue;
            is_alive = true;
            threadIdx = Index{turn[i], 0, 0};
            if (_setjmp(scheduler) == 0) {
                if (current->is_started) _longjmp(current->here, 1);
                current->is_started = true;
                getcontext(&current->context);
                current->context.uc_stack.ss_sp = stacks.data() + STACK * turn[i];
                current->context.uc_stack.ss_size = STACK;
                current->context.uc_link = nullptr;
                makecontext(&current->context, body, 0);
                setcontext(&current->context);
            }
        }
    }
}
}  // namespace fibres

inline void __syncthreads() { fibres::wait(fibres::block); }
inline void __syncwarp() { fibres::wait(fibres::whole_warp().barrier); }

template <class T> T exchange(T mine, unsigned other) {
    fibres::Warp &warp = fibres::whole_warp();
    uint64_t bits = 0;
    memcpy(&bits, &mine, sizeof(T));
    warp.numbers[threadIdx.x % 32] = bits;
    fibres::wait(warp.barrier);
    memcpy(&mine, &warp.numbers[other % 32], sizeof(T));
    fibres::wait(warp.barrier);
    return mine;
}
template <class T> T __shfl_xor_sync(unsigned, T mine, int offset) { return exchange(mine, (threadIdx.x % 32) ^ unsigned(offset)); }
template <class T> T __shfl_sync(unsigned, T mine, unsigned lane) { return exchange(mine, lane); }

inline float exp2_fast(float x) { return exp2f(x); }

inline float upper(unsigned word) { return __uint_as_float(word & 0xffff0000u); }
inline float lower(unsigned word) { return __uint_as_float(word << 16); }

// Where the PTX manual says that the numbers of mma.m16n8k16 stand.
inline void mma(float *c, const unsigned *a, const unsigned *b) {
    fibres::Warp &warp = fibres::whole_warp();
    unsigned lane = threadIdx.x % 32;
    memcpy(warp.a[lane], a, 16);
    memcpy(warp.b[lane], b, 8);
    fibres::wait(warp.barrier);
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4, high_row = i / 2, col = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (unsigned k = 0; k < 16; k++) {
            unsigned left = warp.a[row * 4 + k % 8 / 2][high_row + k / 8 * 2];
            unsigned right = warp.b[col * 4 + k % 8 / 2][k / 8];
            sum += k % 2 ? upper(left) * upper(right) : lower(left) * lower(right);
        }
        c[i] = sum;
    }
    fibres::wait(warp.barrier);
}
inline void load_matrices_with(unsigned *r, const void *row, bool is_transposed) {
    fibres::Warp &warp = fibres::whole_warp();
    unsigned lane = threadIdx.x % 32;
    if (uintptr_t(row) % 16 != 0) fail("a row of a matrix does not begin at a multiple of 16 bytes");
    warp.rows[lane] = row;
    fibres::wait(warp.barrier);
    for (unsigned i = 0; i < 4; i++) {
        unsigned halves[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned line = lane / 4, column = lane % 4 * 2 + j;
            if (is_transposed) std::swap(line, column);
            halves[j] = ((const uint16_t *)warp.rows[i * 8 + line])[column];
        }
        r[i] = halves[0] | halves[1] << 16;
    }
    fibres::wait(warp.barrier);
}
inline void load_matrices(unsigned *r, const void *row) { load_matrices_with(r, row, false); }
inline void load_matrices_transposed(unsigned *r, const void *row) { load_matrices_with(r, row, true); }

inline void copy_16(void *to, const void *from, bool is_there) {
    if (uintptr_t(to) % 16 != 0 || uintptr_t(from) % 16 != 0) fail("a copy does not begin at a multiple of 16 bytes");
    fibres::current->copies.back().push_back(fibres::Copy{to, is_there ? from : nullptr});
}
inline void end_group() { fibres::current->copies.emplace_back(); }
template <int LATER> void wait_for_groups() {
    auto &groups = fibres::current->copies;
    while (groups.size() > LATER + 1) {
        for (const fibres::Copy &copy : groups.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        groups.erase(groups.begin());
    }
}

#include KERNELS

template <class... A, size_t... I> void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*(A *)arguments[I]...);
}
template <class... A> void invoke(void (*kernel)(A...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}

struct Kernel {
    const char *name;
    void (*entry)(void **);
};
#define KERNEL(name) {#name, [](void **arguments) { invoke(&name, arguments); }},
static const Kernel TABLE_OF_KERNELS[] = {
#include TABLE
};

// 0, or 1 when there is no such kernel, 2 when the sizes are beyond what a GPU takes.
extern "C" int emulate(const char *name, const unsigned *grid, unsigned threads, unsigned shared, void **arguments, unsigned seed) {
    fibres::entry = nullptr;
    for (const Kernel &kernel : TABLE_OF_KERNELS) {
        if (strcmp(kernel.name, name) == 0) fibres::entry = kernel.entry;
    }
    if (!fibres::entry) return 1;
    if (threads == 0 || threads % 32 || threads > fibres::MOST_THREADS || shared > fibres::MOST_SHARED) return 2;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535) return 2;
    static std::vector<uint4> room(fibres::MOST_SHARED / 16);
    dynamic_shared = (unsigned char *)room.data();
    fibres::arguments = arguments;
    gridDim = Index{grid[0], grid[1], grid[2]};
    blockDim = Index{threads, 1, 1};
    std::mt19937 order(seed);
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = Index{x, y, z};
                // What was not written is not a number.
                memset(dynamic_shared, 0xff, fibres::MOST_SHARED);
                fibres::run_block(order);
            }
        }
    }
    return 0;
}
