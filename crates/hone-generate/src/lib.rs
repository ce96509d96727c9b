//! Batched text generation: cache slots, sampling, stop strings.
