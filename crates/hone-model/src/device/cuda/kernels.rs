//! The kernels: their text, and their names.

/// The text of all kernels, as one translation unit.
pub(super) const SOURCE: &str = concat!(
    include_str!("kernels/common.cuh"),
    include_str!("kernels/pointwise.cu"),
    include_str!("kernels/norms.cu"),
    include_str!("kernels/loss.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/attention_tensor.cu"),
    include_str!("kernels/cached.cu"),
);

/// Kernels that come as `NAME_f32` and `NAME_bf16`.
#[cfg(test)]
const IN_BOTH_FORMATS: [&str; 20] = [
    "scale",
    "dropout",
    "gather_rows",
    "add_bias",
    "column_sums",
    "swiglu",
    "swiglu_backward",
    "rms_norm",
    "rms_norm_again",
    "rms_norm_backward",
    "rms_norm_weights",
    "rotate",
    "rotate_backward",
    "cross_entropy",
    "attention_rows",
    "attention_delta",
    "cache_store",
    "cache_attention_64",
    "cache_attention_128",
    "cache_attention_256",
];
/// As above, of the plain backward pass of attention.
#[cfg(test)]
const ATTENTION_IN_BOTH_FORMATS: [&str; 2] = ["attention_query_rows", "attention_key_rows"];
/// Kernels that come as `NAME_64` and `NAME_128`.
#[cfg(test)]
const IN_BOTH_HEAD_SIZES: [&str; 3] = ["attention_forward", "attention_backward_queries", "attention_backward_keys"];
/// Kernels for each format of weights.
#[cfg(test)]
const FOR_WEIGHTS: [&str; 2] = ["linear_by_row", "take_rows"];
/// The others.
#[cfg(test)]
const OTHERS: [&str; 7] =
    ["to_bf16", "scatter_add_rows", "add_partial_sums", "sum_of_squares", "adamw", "expand_int8", "join_splits"];

/// Every kernel's name.
#[cfg(test)]
pub(super) fn names() -> Vec<String> {
    let with = |names: &[&str], endings: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| endings.iter().map(move |ending| format!("{name}_{ending}"))).collect()
    };
    let mut names = with(&IN_BOTH_FORMATS, &["f32", "bf16"]);
    names.extend(with(&ATTENTION_IN_BOTH_FORMATS, &["f32", "bf16"]));
    names.extend(with(&IN_BOTH_HEAD_SIZES, &["64", "128"]));
    names.extend(with(&FOR_WEIGHTS, &["f32", "bf16", "int8"]));
    names.extend(OTHERS.map(str::to_owned));
    names
}
