// Cross-entropy over rows of logits: one block for each row.

// Numbers of a row that a thread saw: their greatest, and the sum of exp(x - greatest).
struct SoftmaxState {
    float max, sum;
};
DEVICE SoftmaxState join(SoftmaxState a, SoftmaxState b) {
    SoftmaxState both;
    both.max = fmaxf(a.max, b.max);
    // A side that saw nothing has the sum 0; its factor must not be NaN.
    float left = a.sum == 0.0f ? 0.0f : a.sum * expf(a.max - both.max);
    float right = b.sum == 0.0f ? 0.0f : b.sum * expf(b.max - both.max);
    both.sum = left + right;
    return both;
}

template <int W, class T> DEVICE SoftmaxState see_row(const T *row, u64 width) {
    SoftmaxState state = {-INFINITY, 0.0f};
    for (u64 c = u64(threadIdx.x) * W; c < width; c += u64(blockDim.x) * W) {
        float x[W], most = -INFINITY, sum = 0.0f;
        load<W>(row + c, x);
#pragma unroll
        for (int k = 0; k < W; k++) most = fmaxf(most, x[k]);
#pragma unroll
        for (int k = 0; k < W; k++) sum += most == -INFINITY && x[k] == x[k] ? 0.0f : expf(x[k] - most);
        SoftmaxState part = {most, sum};
        state = join(state, part);
    }
    return state;
}

template <int W, class T>
DEVICE void write_gradient(T *row, u64 width, u32 target, SoftmaxState all, float grad_scale) {
    float factor = grad_scale / all.sum;
    for (u64 c = u64(threadIdx.x) * W; c < width; c += u64(blockDim.x) * W) {
        float x[W];
        load<W>(row + c, x);
#pragma unroll
        for (int k = 0; k < W; k++) x[k] = expf(x[k] - all.max) * factor - (c + k == target ? grad_scale : 0.0f);
        store<W>(row + c, x);
    }
}

template <class T>
DEVICE void cross_entropy_body(T *logits, float *losses, float *correct, const u32 *targets, u64 width, float grad_scale,
                               u32 with_gradient, u32 wide) {
    __shared__ SoftmaxState states[WARP];
    T *row = logits + u64(blockIdx.x) * width;
    u32 target = targets[blockIdx.x];
    float at_target = to_float(row[target]);
    SoftmaxState state = wide ? see_row<8>(row, width) : see_row<1>(row, width);
    for (int offset = 16; offset > 0; offset /= 2) {
        SoftmaxState other;
        other.max = __shfl_xor_sync(ALL_LANES, state.max, offset);
        other.sum = __shfl_xor_sync(ALL_LANES, state.sum, offset);
        state = join(state, other);
    }
    if (threadIdx.x % WARP == 0) states[threadIdx.x / WARP] = state;
    // Also: nobody writes a gradient before everybody has read the target's logit.
    __syncthreads();
    state = states[0];
    for (u32 i = 1; i < blockDim.x / WARP; i++) state = join(state, states[i]);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = logf(state.sum) - (at_target - state.max);
        correct[blockIdx.x] = at_target >= state.max ? 1.0f : 0.0f;
    }
    if (!with_gradient) return;
    if (wide) write_gradient<8>(row, width, target, state, grad_scale);
    else write_gradient<1>(row, width, target, state, grad_scale);
}
FORMATS(cross_entropy,
        (T *logits, float *losses, float *correct, const u32 *targets, u64 width, float grad_scale, u32 with_gradient, u32 wide),
        (logits, losses, correct, targets, width, grad_scale, with_gradient, wide))
