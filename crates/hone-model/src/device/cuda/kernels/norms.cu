// RMS norms over rows, and the rotation of heads with their norms.

// One block for each row (in strides): scale [N] := 1 / sqrt(mean square + eps); y := x * scale * w.
template <class T> DEVICE void rms_norm_body(T *y, float *scale, const float *x, const float *w, float eps, u64 rows, u64 width) {
    __shared__ float shared[WARP];
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = x + row * width;
        float squares = 0.0f;
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) squares += from[c] * from[c];
        float s = 1.0f / sqrtf(block_sum(squares, shared) / float(width) + eps);
        if (threadIdx.x == 0) scale[row] = s;
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) y[row * width + c] = Format<T>::of(from[c] * s * w[c]);
    }
}
FORMATS(rms_norm, (T *y, float *scale, const float *x, const float *w, float eps, u64 rows, u64 width),
        (y, scale, x, w, eps, rows, width))

template <class T> DEVICE void rms_norm_again_body(T *y, const float *scale, const float *x, const float *w, u64 rows, u64 width) {
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        float s = scale[row];
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) y[row * width + c] = Format<T>::of(x[row * width + c] * s * w[c]);
    }
}
FORMATS(rms_norm_again, (T *y, const float *scale, const float *x, const float *w, u64 rows, u64 width),
        (y, scale, x, w, rows, width))

// dx [N, H] += the gradient, one block for each row (in strides).
template <class T>
DEVICE void rms_norm_backward_body(float *dx, const T *dy, const float *scale, const float *x, const float *w, u64 rows, u64 width) {
    __shared__ float shared[WARP];
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *d = dy + row * width;
        const float *from = x + row * width;
        float dot = 0.0f;
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) dot += to_float(d[c]) * w[c] * from[c];
        float s = scale[row];
        float shift = block_sum(dot, shared) * s * s * s / float(width);
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) {
            dx[row * width + c] += to_float(d[c]) * w[c] * s - from[c] * shift;
        }
    }
}
FORMATS(rms_norm_backward, (float *dx, const T *dy, const float *scale, const float *x, const float *w, u64 rows, u64 width),
        (dx, dy, scale, x, w, rows, width))

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

// One warp for each head of each row (in strides). The norms are null without.
template <class T>
DEVICE void rotate_body(T *rotated, float *scale, const T *qkv, const float *table, const u32 *positions, const float *query_norm,
                        const float *key_norm, float eps, HeadSizes heads, u64 rows) {
    u32 lane = threadIdx.x % WARP, d = heads.head_dim, half = d / 2, per_row = heads.num_heads + heads.num_kv_heads;
    u64 warp = (u64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP, num_warps = u64(gridDim.x) * blockDim.x / WARP;
    for (u64 item = warp; item < rows * per_row; item += num_warps) {
        u64 row = item / per_row;
        u32 head = u32(item % per_row);
        const T *from = qkv + row * (heads.num_heads + 2 * heads.num_kv_heads) * d + u64(head) * d;
        T *to = rotated + row * per_row * d + u64(head) * d;
        const float *cosines = table + u64(positions[row]) * d, *sines = cosines + half;
        const float *norm = head < heads.num_heads ? query_norm : key_norm;
        float s = 1.0f;
        if (norm) {
            float squares = 0.0f;
            for (u32 j = lane; j < d; j += WARP) squares += to_float(from[j]) * to_float(from[j]);
            s = 1.0f / sqrtf(warp_sum(squares) / float(d) + eps);
            if (lane == 0) scale[item] = s;
        }
        for (u32 j = lane; j < half; j += WARP) {
            float a = to_float(from[j]), b = to_float(from[j + half]);
            if (norm) a *= s * norm[j], b *= s * norm[j + half];
            to[j] = Format<T>::of(a * cosines[j] - b * sines[j]);
            to[j + half] = Format<T>::of(b * cosines[j] + a * sines[j]);
        }
    }
}
FORMATS(rotate,
        (T *rotated, float *scale, const T *qkv, const float *table, const u32 *positions, const float *query_norm,
         const float *key_norm, float eps, HeadSizes heads, u64 rows),
        (rotated, scale, qkv, table, positions, query_norm, key_norm, eps, heads, rows))

// Most pairs of a head that one lane holds: heads of up to 256 numbers.
#define MOST_PAIRS 4
#define MOST_HEAD_DIM (2 * WARP * MOST_PAIRS)
// Warps of a block of rotate_backward.
#define ROTATE_WARPS 8

// In place in the query and key parts of dqkv. partial [gridDim.x, 2D]: what the block adds to the gradients of both norms.
template <class T>
DEVICE void rotate_backward_body(T *dqkv, float *partial, const float *scale, const T *qkv, const float *table,
                                 const u32 *positions, const float *query_norm, const float *key_norm, HeadSizes heads, u64 rows) {
    __shared__ float shared[ROTATE_WARPS][2 * MOST_HEAD_DIM];
    u32 lane = threadIdx.x % WARP, d = heads.head_dim, half = d / 2, per_row = heads.num_heads + heads.num_kv_heads;
    u32 warp_in_block = threadIdx.x / WARP;
    u64 warp = (u64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP, num_warps = u64(gridDim.x) * blockDim.x / WARP;
    float sums[2][2 * MOST_PAIRS];
    for (int i = 0; i < 2 * MOST_PAIRS; i++) sums[0][i] = sums[1][i] = 0.0f;
    for (u64 item = warp; item < rows * per_row; item += num_warps) {
        u64 row = item / per_row;
        u32 head = u32(item % per_row);
        u64 place = row * (heads.num_heads + 2 * heads.num_kv_heads) * d + u64(head) * d;
        const float *cosines = table + u64(positions[row]) * d, *sines = cosines + half;
        bool is_query = head < heads.num_heads;
        const float *norm = is_query ? query_norm : key_norm;
        float da[MOST_PAIRS], db[MOST_PAIRS], dot = 0.0f, s = norm ? scale[item] : 1.0f;
#pragma unroll
        for (int i = 0; i < MOST_PAIRS; i++) {
            u32 j = lane + i * WARP;
            if (j < half) {
                float x = to_float(dqkv[place + j]), y = to_float(dqkv[place + j + half]);
                da[i] = x * cosines[j] + y * sines[j];
                db[i] = y * cosines[j] - x * sines[j];
                if (norm) {
                    float a = to_float(qkv[place + j]), b = to_float(qkv[place + j + half]);
                    float first = da[i] * a * s, second = db[i] * b * s;
                    if (is_query) sums[0][2 * i] += first, sums[0][2 * i + 1] += second;
                    else sums[1][2 * i] += first, sums[1][2 * i + 1] += second;
                    dot += da[i] * norm[j] * a + db[i] * norm[j + half] * b;
                }
            }
        }
        float shift = norm ? warp_sum(dot) * s * s * s / float(d) : 0.0f;
#pragma unroll
        for (int i = 0; i < MOST_PAIRS; i++) {
            u32 j = lane + i * WARP;
            if (j < half) {
                float a = da[i], b = db[i];
                if (norm) {
                    a = a * norm[j] * s - to_float(qkv[place + j]) * shift;
                    b = b * norm[j + half] * s - to_float(qkv[place + j + half]) * shift;
                }
                dqkv[place + j] = Format<T>::of(a);
                dqkv[place + j + half] = Format<T>::of(b);
            }
        }
    }
    if (!query_norm) return;
#pragma unroll
    for (int i = 0; i < MOST_PAIRS; i++) {
        u32 j = lane + i * WARP;
        if (j < half) {
            for (int which = 0; which < 2; which++) {
                shared[warp_in_block][which * d + j] = sums[which][2 * i];
                shared[warp_in_block][which * d + j + half] = sums[which][2 * i + 1];
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
FORMATS(rotate_backward,
        (T *dqkv, float *partial, const float *scale, const T *qkv, const float *table, const u32 *positions,
         const float *query_norm, const float *key_norm, HeadSizes heads, u64 rows),
        (dqkv, partial, scale, qkv, table, positions, query_norm, key_norm, heads, rows))
