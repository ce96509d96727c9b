// What every kernel file begins with: types, bf16, vector loads, reductions. No header of CUDA is read, so that the source compiles
// at run time wherever the driver is. With HONE_EMULATED the same text is C++ for the processor (see emulator.cpp).
//
// Letters as in device.rs: N rows, H columns, A query heads, K key/value heads, D numbers per head, I intermediate size, V vocabulary.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef signed char i8;

// The upper half of an f32.
struct bf16 {
    u16 bits;
};

#define WARP 32
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#define ALL_LANES 0xffffffffu
#define DEVICE __device__ __forceinline__

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Two numbers, rounded to nearest, ties to even; `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
#ifdef HONE_EMULATED
    u32 halves[2];
    float values[2] = {low, high};
    for (int i = 0; i < 2; i++) {
        u32 bits = __float_as_uint(values[i]);
        halves[i] = values[i] != values[i] ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    }
    return halves[0] | halves[1] << 16;
#else
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

template <class T> struct Format;
template <> struct Format<float> {
    static DEVICE float of(float x) { return x; }
};
template <> struct Format<bf16> {
    static DEVICE bf16 of(float x) {
        bf16 half;
        half.bits = u16(pack_bf16(x, 0.0f));
        return half;
    }
};

// Eight numbers at an address that is a multiple of 16 bytes.
DEVICE void load8(const float *p, float *x) {
    float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
DEVICE void load8(const bf16 *p, float *x) {
    uint4 a = *(const uint4 *)p;
    u32 words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(words[i] << 16);
        x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
DEVICE void store8(float *p, const float *x) {
    float4 a = {x[0], x[1], x[2], x[3]}, b = {x[4], x[5], x[6], x[7]};
    ((float4 *)p)[0] = a;
    ((float4 *)p)[1] = b;
}
DEVICE void store8(bf16 *p, const float *x) {
    uint4 a = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
    *(uint4 *)p = a;
}

// Two numbers at an address that is a multiple of their size.
DEVICE void load2(const float *p, float *x) {
    float2 a = *(const float2 *)p;
    x[0] = a.x, x[1] = a.y;
}
DEVICE void load2(const bf16 *p, float *x) {
    u32 word = *(const u32 *)p;
    x[0] = __uint_as_float(word << 16), x[1] = __uint_as_float(word & 0xffff0000u);
}
DEVICE void store2(float *p, const float *x) {
    float2 a = {x[0], x[1]};
    *(float2 *)p = a;
}
DEVICE void store2(bf16 *p, const float *x) { *(u32 *)p = pack_bf16(x[0], x[1]); }

// Four numbers at an address that is a multiple of 16 bytes.
DEVICE void load4(const float *p, float *x) {
    float4 a = *(const float4 *)p;
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
}
DEVICE void load4(const bf16 *p, float *x) { load2(p, x), load2(p + 2, x + 2); }

// W numbers: 8, 4 or 2 by one access, 1 plainly.
template <int W, class T> DEVICE void load(const T *p, float *x) {
    if (W == 8) load8(p, x);
    else if (W == 4) load4(p, x);
    else if (W == 2) load2(p, x);
    else x[0] = to_float(*p);
}
template <int W, class T> DEVICE void store(T *p, const float *x) {
    if (W == 8) store8(p, x);
    else if (W == 2) store2(p, x);
    else *p = Format<T>::of(x[0]);
}

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The sum over the block, in every thread. `shared` holds 32 numbers; it can be used again after the call.
DEVICE float block_sum(float x, float *shared) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / WARP; i++) sum += shared[i];
    return sum;
}

// The kernel `name_f32` and `name_bf16`, for `T` in `params` and `name_body<T>`.
#define FORMATS(name, params, args)                                                       \
    namespace name##_for_f32 {                                                            \
    typedef float T;                                                                      \
    extern "C" __global__ void name##_f32 params { name##_body<T> args; }                 \
    }                                                                                     \
    using name##_for_f32::name##_f32;                                                     \
    namespace name##_for_bf16 {                                                           \
    typedef bf16 T;                                                                       \
    extern "C" __global__ void name##_bf16 params { name##_body<T> args; }                \
    }                                                                                     \
    using name##_for_bf16::name##_bf16;
