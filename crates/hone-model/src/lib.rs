//! The numeric engine: configuration, weights, forward, backward, optimizer, decoding.
