// Kernels that treat numbers one by one, rows of tables, biases, AdamW. Rows go over blockIdx.y, numbers of a row over blockIdx.x;
// both in strides, so that any grid covers everything. `wide` says that addresses and widths allow accesses of eight numbers.

#define FOR_EACH_ROW(row, rows) for (u64 row = blockIdx.y; row < (rows); row += gridDim.y)
#define FOR_EACH_COLUMN(c, width, W) \
    for (u64 c = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * (W); c < (width); c += u64(gridDim.x) * blockDim.x * (W))

template <int W, class T> DEVICE void scale_part(T *x, float factor, u64 len) {
    FOR_EACH_COLUMN(i, len, W) {
        float v[W];
        load<W>(x + i, v);
#pragma unroll
        for (int k = 0; k < W; k++) v[k] *= factor;
        store<W>(x + i, v);
    }
}
template <class T> DEVICE void scale_body(T *x, float factor, u64 len, u32 wide) {
    if (wide) scale_part<8>(x, factor, len);
    else scale_part<1>(x, factor, len);
}
FORMATS(scale, (T *x, float factor, u64 len, u32 wide), (x, factor, len, wide))

// What number `index` is multiplied by; Dropout::factor in device.rs.
DEVICE float dropout_factor(u64 seed, u64 index, float rate, float kept) {
    u64 z = seed + index * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    float uniform = float(u32((z ^ (z >> 31)) >> 40)) / 16777216.0f;
    return uniform < rate ? 0.0f : kept;
}
template <class T>
DEVICE void dropout_body(T *y, const T *x, u64 seed, float rate, float kept, u32 accumulate, u64 len) {
    FOR_EACH_COLUMN(i, len, 1) {
        float v = to_float(x[i]) * dropout_factor(seed, i, rate, kept);
        y[i] = Format<T>::of(accumulate ? to_float(y[i]) + v : v);
    }
}
FORMATS(dropout, (T *y, const T *x, u64 seed, float rate, float kept, u32 accumulate, u64 len),
        (y, x, seed, rate, kept, accumulate, len))

// dst [rows, cols], compact, from rows of f32 that stand `stride` apart.
template <int W> DEVICE void to_bf16_part(bf16 *dst, const float *src, u64 rows, u64 cols, u64 stride) {
    FOR_EACH_ROW(row, rows) {
        FOR_EACH_COLUMN(c, cols, W) {
            float v[W];
            load<W>(src + row * stride + c, v);
            store<W>(dst + row * cols + c, v);
        }
    }
}
extern "C" __global__ void to_bf16(bf16 *dst, const float *src, u64 rows, u64 cols, u64 stride, u32 wide) {
    if (wide) to_bf16_part<8>(dst, src, rows, cols, stride);
    else to_bf16_part<1>(dst, src, rows, cols, stride);
}

// y [n, H] := rows of x [*, H].
template <class T> DEVICE void gather_rows_body(T *y, const T *x, const u32 *rows, u64 n, u64 width) {
    FOR_EACH_ROW(row, n) {
        const T *from = x + u64(rows[row]) * width;
        FOR_EACH_COLUMN(c, width, 1) y[row * width + c] = from[c];
    }
}
FORMATS(gather_rows, (T *y, const T *x, const u32 *rows, u64 n, u64 width), (y, x, rows, n, width))

// Row targets[i] of x += the rows order[starts[i] .. starts[i + 1]] of y, in that order; targets do not repeat.
extern "C" __global__ void scatter_add_rows(float *x, const float *y, const u32 *targets, const u32 *starts, const u32 *order,
                                            u64 n, u64 width) {
    FOR_EACH_ROW(i, n) {
        float *to = x + u64(targets[i]) * width;
        u32 first = starts[i], last = starts[i + 1];
        FOR_EACH_COLUMN(c, width, 1) {
            float sum = to[c];
#pragma unroll 4
            for (u32 j = first; j < last; j++) sum += y[u64(order[j]) * width + c];
            to[c] = sum;
        }
    }
}

// y [N, H] += bias [H].
template <class T> DEVICE void add_bias_body(T *y, const float *bias, u64 rows, u64 width) {
    FOR_EACH_ROW(row, rows) {
        FOR_EACH_COLUMN(c, width, 1) {
            T *place = y + row * width + c;
            *place = Format<T>::of(to_float(*place) + bias[c]);
        }
    }
}
FORMATS(add_bias, (T *y, const float *bias, u64 rows, u64 width), (y, bias, rows, width))

// partial [gridDim.y, H] := sums of `rows_per_chunk` rows of x [N, H].
template <class T>
DEVICE void column_sums_body(float *partial, const T *x, u64 rows, u64 width, u64 rows_per_chunk) {
    u64 first = blockIdx.y * rows_per_chunk, last = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    FOR_EACH_COLUMN(c, width, 1) {
        float sum = 0.0f;
        for (u64 row = first; row < last; row++) sum += to_float(x[row * width + c]);
        partial[blockIdx.y * width + c] = sum;
    }
}
FORMATS(column_sums, (float *partial, const T *x, u64 rows, u64 width, u64 rows_per_chunk),
        (partial, x, rows, width, rows_per_chunk))

// Columns and parts of the chunks that one block of add_partial_sums takes.
#define SUM_COLUMNS 32
#define SUM_PARTS 8

// out [width] += the sums over chunks of partial [chunks, stride].
extern "C" __global__ void add_partial_sums(float *out, const float *partial, u64 chunks, u64 stride, u64 width) {
    __shared__ float sums[SUM_PARTS][SUM_COLUMNS];
    u32 column = threadIdx.x % SUM_COLUMNS, part = threadIdx.x / SUM_COLUMNS;
    u64 c = u64(blockIdx.x) * SUM_COLUMNS + column;
    float sum = 0.0f;
    if (c < width) {
#pragma unroll 8
        for (u64 chunk = part; chunk < chunks; chunk += SUM_PARTS) sum += partial[chunk * stride + c];
    }
    sums[part][column] = sum;
    __syncthreads();
    if (part > 0 || c >= width) return;
    for (u32 i = 1; i < SUM_PARTS; i++) sum += sums[i][column];
    out[c] += sum;
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <int W, class T> DEVICE void swiglu_part(T *y, const T *gate_up, u64 rows, u64 width) {
    FOR_EACH_ROW(row, rows) {
        const T *from = gate_up + row * 2 * width;
        FOR_EACH_COLUMN(c, width, W) {
            float g[W], u[W];
            load<W>(from + c, g);
            load<W>(from + width + c, u);
#pragma unroll
            for (int k = 0; k < W; k++) u[k] *= g[k] * sigmoid(g[k]);
            store<W>(y + row * width + c, u);
        }
    }
}
template <class T> DEVICE void swiglu_body(T *y, const T *gate_up, u64 rows, u64 width, u32 wide) {
    if (wide) swiglu_part<8>(y, gate_up, rows, width);
    else swiglu_part<1>(y, gate_up, rows, width);
}
FORMATS(swiglu, (T *y, const T *gate_up, u64 rows, u64 width, u32 wide), (y, gate_up, rows, width, wide))

template <int W, class T> DEVICE void swiglu_backward_part(T *y, T *gate_up, u64 rows, u64 width) {
    FOR_EACH_ROW(row, rows) {
        T *place = gate_up + row * 2 * width;
        FOR_EACH_COLUMN(c, width, W) {
            float g[W], u[W], dy[W];
            load<W>(place + c, g);
            load<W>(place + width + c, u);
            load<W>(y + row * width + c, dy);
#pragma unroll
            for (int k = 0; k < W; k++) {
                float s = sigmoid(g[k]), active = g[k] * s, up = u[k], d = dy[k];
                dy[k] = active * up;
                g[k] = d * up * (s + active * (1.0f - s));
                u[k] = d * active;
            }
            store<W>(y + row * width + c, dy);
            store<W>(place + c, g);
            store<W>(place + width + c, u);
        }
    }
}
template <class T> DEVICE void swiglu_backward_body(T *y, T *gate_up, u64 rows, u64 width, u32 wide) {
    if (wide) swiglu_backward_part<8>(y, gate_up, rows, width);
    else swiglu_backward_part<1>(y, gate_up, rows, width);
}
FORMATS(swiglu_backward, (T *y, T *gate_up, u64 rows, u64 width, u32 wide), (y, gate_up, rows, width, wide))

template <int W> DEVICE double squares_part(const float *x, u64 len) {
    double sum = 0.0;
    FOR_EACH_COLUMN(i, len, W) {
        float v[W], few = 0.0f;
        load<W>(x + i, v);
#pragma unroll
        for (int k = 0; k < W; k++) few += v[k] * v[k];
        sum += few;
    }
    return sum;
}

// partial [gridDim.x] := sums of the squares; eight are added in f32, the rest in f64.
extern "C" __global__ void sum_of_squares(double *partial, const float *x, u64 len, u32 wide) {
    __shared__ double sums[WARP];
    double sum = wide ? squares_part<8>(x, len) : squares_part<1>(x, len);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (u32 i = 0; i < blockDim.x / WARP; i++) total += sums[i];
        partial[blockIdx.x] = total;
    }
}

// AdamWUpdate in device.rs.
struct AdamWNumbers {
    float grad_scale, beta1, beta2, step_size, second_correction, eps, keep;
};

template <int W>
DEVICE void adamw_part(float *w, const float *g, float *m, float *v, const AdamWNumbers &n, u64 len) {
    FOR_EACH_COLUMN(i, len, W) {
        float weight[W], gradient[W], first[W], second[W];
        load<W>(w + i, weight);
        load<W>(g + i, gradient);
        load<W>(m + i, first);
        load<W>(v + i, second);
#pragma unroll
        for (int k = 0; k < W; k++) {
            float d = gradient[k] * n.grad_scale;
            first[k] = n.beta1 * first[k] + (1.0f - n.beta1) * d;
            second[k] = n.beta2 * second[k] + (1.0f - n.beta2) * d * d;
            weight[k] = weight[k] * n.keep - n.step_size * first[k] / (sqrtf(second[k]) * n.second_correction + n.eps);
        }
        store<W>(w + i, weight);
        store<W>(m + i, first);
        store<W>(v + i, second);
    }
}
extern "C" __global__ void adamw(float *w, const float *g, float *m, float *v, AdamWNumbers numbers, u64 len, u32 wide) {
    if (wide) adamw_part<8>(w, g, m, v, numbers, len);
    else adamw_part<1>(w, g, m, v, numbers, len);
}
