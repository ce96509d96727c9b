//! Tests of `method`.

use super::*;

#[test]
fn a_star_stands_for_any_characters() {
    for (pattern, name, expected) in [
        ("model.norm.weight", "model.norm.weight", true),
        ("model.norm", "model.norm.weight", false),
        ("model.layers.1.*", "model.layers.1.mlp.up_proj.weight", true),
        ("model.layers.1.*", "model.layers.10.mlp.up_proj.weight", false),
        ("*norm.weight", "model.layers.0.self_attn.q_norm.weight", true),
        ("*.layers.*.mlp.*", "model.layers.7.mlp.up_proj.weight", true),
        ("*.layers.*.mlp.*", "model.layers.7.self_attn.q_proj.weight", false),
        ("*", "anything", true),
    ] {
        assert_eq!(fits(pattern, name), expected, "{pattern} on {name}");
    }
}
