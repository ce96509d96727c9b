// RMS norms over rows, and the rotation of heads with their norms.

#define FOR_EACH_IN_ROW(c, width, W) for (u64 c = u64(threadIdx.x) * (W); c < (width); c += u64(blockDim.x) * (W))

// y := x * s * w over a row.
template <int W, class T> DEVICE void norm_row(T *y, const float *x, const float *w, float s, u64 width) {
    FOR_EACH_IN_ROW(c, width, W) {
        float v[W], weights[W];
        load<W>(x + c, v);
        load<W>(w + c, weights);
#pragma unroll
        for (int k = 0; k < W; k++) v[k] *= s * weights[k];
        store<W>(y + c, v);
    }
}
template <int W> DEVICE float row_squares(const float *x, u64 width) {
    float squares = 0.0f;
    FOR_EACH_IN_ROW(c, width, W) {
        float v[W];
        load<W>(x + c, v);
#pragma unroll
        for (int k = 0; k < W; k++) squares += v[k] * v[k];
    }
    return squares;
}

// One block for each row (in strides): scale [N] := 1 / sqrt(mean square + eps); y := x * scale * w.
template <class T>
DEVICE void rms_norm_body(T *y, float *scale, const float *x, const float *w, float eps, u64 rows, u64 width, u32 wide) {
    __shared__ float shared[WARP];
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = x + row * width;
        float squares = wide ? row_squares<8>(from, width) : row_squares<1>(from, width);
        float s = 1.0f / sqrtf(block_sum(squares, shared) / float(width) + eps);
        if (threadIdx.x == 0) scale[row] = s;
        if (wide) norm_row<8>(y + row * width, from, w, s, width);
        else norm_row<1>(y + row * width, from, w, s, width);
    }
}
FORMATS(rms_norm, (T *y, float *scale, const float *x, const float *w, float eps, u64 rows, u64 width, u32 wide),
        (y, scale, x, w, eps, rows, width, wide))

template <class T>
DEVICE void rms_norm_again_body(T *y, const float *scale, const float *x, const float *w, u64 rows, u64 width, u32 wide) {
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        if (wide) norm_row<8>(y + row * width, x + row * width, w, scale[row], width);
        else norm_row<1>(y + row * width, x + row * width, w, scale[row], width);
    }
}
FORMATS(rms_norm_again, (T *y, const float *scale, const float *x, const float *w, u64 rows, u64 width, u32 wide),
        (y, scale, x, w, rows, width, wide))

template <int W, class T> DEVICE float row_dot(const T *dy, const float *x, const float *w, u64 width) {
    float dot = 0.0f;
    FOR_EACH_IN_ROW(c, width, W) {
        float d[W], v[W], weights[W];
        load<W>(dy + c, d);
        load<W>(x + c, v);
        load<W>(w + c, weights);
#pragma unroll
        for (int k = 0; k < W; k++) dot += d[k] * weights[k] * v[k];
    }
    return dot;
}
template <int W, class T>
DEVICE void add_row_gradient(float *dx, const T *dy, const float *x, const float *w, float s, float shift, u64 width) {
    FOR_EACH_IN_ROW(c, width, W) {
        float sum[W], d[W], v[W], weights[W];
        load<W>(dx + c, sum);
        load<W>(dy + c, d);
        load<W>(x + c, v);
        load<W>(w + c, weights);
#pragma unroll
        for (int k = 0; k < W; k++) sum[k] += d[k] * weights[k] * s - v[k] * shift;
        store<W>(dx + c, sum);
    }
}

// dx [N, H] += the gradient, one block for each row (in strides).
template <class T>
DEVICE void rms_norm_backward_body(float *dx, const T *dy, const float *scale, const float *x, const float *w, u64 rows, u64 width,
                                   u32 wide) {
    __shared__ float shared[WARP];
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *d = dy + row * width;
        const float *from = x + row * width;
        float s = scale[row], dot = wide ? row_dot<8>(d, from, w, width) : row_dot<1>(d, from, w, width);
        float shift = block_sum(dot, shared) * s * s * s / float(width);
        if (wide) add_row_gradient<8>(dx + row * width, d, from, w, s, shift, width);
        else add_row_gradient<1>(dx + row * width, d, from, w, s, shift, width);
    }
}
FORMATS(rms_norm_backward, (float *dx, const T *dy, const float *scale, const float *x, const float *w, u64 rows, u64 width, u32 wide),
        (dx, dy, scale, x, w, rows, width, wide))

// partial [gridDim.y, H] := sums of dy * x * scale over `rows_per_chunk` rows.
template <class T>
DEVICE void rms_norm_weights_body(float *partial, const T *dy, const float *scale, const float *x, u64 rows, u64 width,
                                  u64 rows_per_chunk) {
    u64 first = blockIdx.y * rows_per_chunk, last = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    for (u64 c = u64(blockIdx.x) * blockDim.x + threadIdx.x; c < width; c += u64(gridDim.x) * blockDim.x) {
        float sum = 0.0f;
#pragma unroll 4
        for (u64 row = first; row < last; row++) sum += to_float(dy[row * width + c]) * x[row * width + c] * scale[row];
        partial[blockIdx.y * width + c] = sum;
    }
}
FORMATS(rms_norm_weights,
        (float *partial, const T *dy, const float *scale, const float *x, u64 rows, u64 width, u64 rows_per_chunk),
        (partial, dy, scale, x, rows, width, rows_per_chunk))

// Sizes of heads, as Heads in device.rs.
struct HeadSizes {
    u32 num_heads, num_kv_heads, head_dim;
};

// One warp for each head of each row (in strides), W pairs of a head at once. The norms are null without.
template <int W, class T>
DEVICE void rotate_part(T *rotated, float *scale, const T *qkv, const float *table, const u32 *positions, const float *query_norm,
                        const float *key_norm, float eps, HeadSizes heads, u32 rows) {
    u32 lane = threadIdx.x % WARP, d = heads.head_dim, half = d / 2, per_row = heads.num_heads + heads.num_kv_heads;
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, num_warps = gridDim.x * blockDim.x / WARP;
    for (u32 item = warp; item < rows * per_row; item += num_warps) {
        u32 row = item / per_row, head = item % per_row;
        const T *from = qkv + u64(row) * (heads.num_heads + 2 * heads.num_kv_heads) * d + head * d;
        T *to = rotated + u64(row) * per_row * d + head * d;
        const float *cosines = table + u64(positions[row]) * d, *sines = cosines + half;
        const float *norm = head < heads.num_heads ? query_norm : key_norm;
        float s = 1.0f;
        if (norm) {
            float squares = 0.0f;
            for (u32 j = lane * W; j < d; j += WARP * W) {
                float x[W];
                load<W>(from + j, x);
#pragma unroll
                for (int k = 0; k < W; k++) squares += x[k] * x[k];
            }
            s = 1.0f / sqrtf(warp_sum(squares) / float(d) + eps);
            if (lane == 0) scale[item] = s;
        }
        for (u32 j = lane * W; j < half; j += WARP * W) {
            float a[W], b[W], cosine[W], sine[W];
            load<W>(from + j, a);
            load<W>(from + j + half, b);
            load<W>(cosines + j, cosine);
            load<W>(sines + j, sine);
#pragma unroll
            for (int k = 0; k < W; k++) {
                if (norm) a[k] *= s * norm[j + k], b[k] *= s * norm[j + half + k];
                float first = a[k] * cosine[k] - b[k] * sine[k];
                b[k] = b[k] * cosine[k] + a[k] * sine[k];
                a[k] = first;
            }
            store<W>(to + j, a);
            store<W>(to + j + half, b);
        }
    }
}
template <class T>
DEVICE void rotate_body(T *rotated, float *scale, const T *qkv, const float *table, const u32 *positions, const float *query_norm,
                        const float *key_norm, float eps, HeadSizes heads, u32 rows, u32 wide) {
    if (wide) rotate_part<2>(rotated, scale, qkv, table, positions, query_norm, key_norm, eps, heads, rows);
    else rotate_part<1>(rotated, scale, qkv, table, positions, query_norm, key_norm, eps, heads, rows);
}
FORMATS(rotate,
        (T *rotated, float *scale, const T *qkv, const float *table, const u32 *positions, const float *query_norm,
         const float *key_norm, float eps, HeadSizes heads, u32 rows, u32 wide),
        (rotated, scale, qkv, table, positions, query_norm, key_norm, eps, heads, rows, wide))

// Most numbers of a head: each lane holds four pairs.
#define LANE_PAIRS 4
#define MOST_HEAD_DIM (2 * WARP * LANE_PAIRS)
// Warps of a block of rotate_backward.
#define ROTATE_WARPS 8

// In place in the query and key parts of dqkv. partial [gridDim.x, 2D]: what the block adds to the gradients of both norms.
template <int W, class T>
DEVICE void rotate_backward_part(T *dqkv, float *partial, const float *scale, const T *qkv, const float *table, const u32 *positions,
                                 const float *query_norm, const float *key_norm, HeadSizes heads, u32 rows) {
    __shared__ float shared[ROTATE_WARPS][2 * MOST_HEAD_DIM];
    u32 lane = threadIdx.x % WARP, d = heads.head_dim, half = d / 2, per_row = heads.num_heads + heads.num_kv_heads;
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, num_warps = gridDim.x * blockDim.x / WARP;
    // Of the query norm, then of the key norm; first and second halves of the pairs.
    float sums[2][2][LANE_PAIRS];
#pragma unroll
    for (int i = 0; i < 4 * LANE_PAIRS; i++) sums[i / 2 / LANE_PAIRS][i / LANE_PAIRS % 2][i % LANE_PAIRS] = 0.0f;
    for (u32 item = warp; item < rows * per_row; item += num_warps) {
        u32 row = item / per_row, head = item % per_row;
        u64 place = u64(row) * (heads.num_heads + 2 * heads.num_kv_heads) * d + head * d;
        const float *cosines = table + u64(positions[row]) * d, *sines = cosines + half;
        bool is_query = head < heads.num_heads;
        const float *norm = is_query ? query_norm : key_norm;
        float da[LANE_PAIRS], db[LANE_PAIRS], a[LANE_PAIRS], b[LANE_PAIRS], dot = 0.0f, s = norm ? scale[item] : 1.0f;
#pragma unroll
        for (int i = 0; i < LANE_PAIRS; i += W) {
            u32 j = lane * W + i * WARP;
            if (j < half) {
                float cosine[W], sine[W];
                load<W>(dqkv + place + j, da + i);
                load<W>(dqkv + place + j + half, db + i);
                load<W>(cosines + j, cosine);
                load<W>(sines + j, sine);
                if (norm) load<W>(qkv + place + j, a + i), load<W>(qkv + place + j + half, b + i);
#pragma unroll
                for (int k = 0; k < W; k++) {
                    float x = da[i + k], y = db[i + k];
                    da[i + k] = x * cosine[k] + y * sine[k];
                    db[i + k] = y * cosine[k] - x * sine[k];
                    if (norm) {
                        float first = da[i + k] * a[i + k], second = db[i + k] * b[i + k];
                        if (is_query) sums[0][0][i + k] += first * s, sums[0][1][i + k] += second * s;
                        else sums[1][0][i + k] += first * s, sums[1][1][i + k] += second * s;
                        dot += first * norm[j + k] + second * norm[j + half + k];
                    }
                }
            }
        }
        float shift = norm ? warp_sum(dot) * s * s * s / float(d) : 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_PAIRS; i += W) {
            u32 j = lane * W + i * WARP;
            if (j < half) {
#pragma unroll
                for (int k = 0; k < W; k++) {
                    if (norm) {
                        da[i + k] = da[i + k] * norm[j + k] * s - a[i + k] * shift;
                        db[i + k] = db[i + k] * norm[j + half + k] * s - b[i + k] * shift;
                    }
                }
                store<W>(dqkv + place + j, da + i);
                store<W>(dqkv + place + j + half, db + i);
            }
        }
    }
    if (!query_norm) return;
#pragma unroll
    for (int i = 0; i < LANE_PAIRS; i++) {
        u32 j = lane * W + i / W * W * WARP + i % W;
        if (j < half) {
#pragma unroll
            for (int which = 0; which < 2; which++) {
                shared[threadIdx.x / WARP][which * d + j] = sums[which][0][i];
                shared[threadIdx.x / WARP][which * d + j + half] = sums[which][1][i];
            }
        }
    }
    __syncthreads();
    for (u32 c = threadIdx.x; c < 2 * d; c += blockDim.x) {
        float sum = 0.0f;
        for (u32 i = 0; i < blockDim.x / WARP; i++) sum += shared[i][c];
        partial[u64(blockIdx.x) * 2 * d + c] = sum;
    }
}
template <class T>
DEVICE void rotate_backward_body(T *dqkv, float *partial, const float *scale, const T *qkv, const float *table, const u32 *positions,
                                 const float *query_norm, const float *key_norm, HeadSizes heads, u32 rows, u32 wide) {
    if (wide) rotate_backward_part<2>(dqkv, partial, scale, qkv, table, positions, query_norm, key_norm, heads, rows);
    else rotate_backward_part<1>(dqkv, partial, scale, qkv, table, positions, query_norm, key_norm, heads, rows);
}
FORMATS(rotate_backward,
        (T *dqkv, float *partial, const float *scale, const T *qkv, const float *table, const u32 *positions,
         const float *query_norm, const float *key_norm, HeadSizes heads, u32 rows, u32 wide),
        (dqkv, partial, scale, qkv, table, positions, query_norm, key_norm, heads, rows, wide))
