//! From text to token batches: readers, checks, profiles, chat template, tokens with their loss mask, packing.
