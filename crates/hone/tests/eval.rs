//! `hone eval N` with the real binary: the suites that the daemon would evaluate on, each under its own schema.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use rig::Rig;
use serde_json::Value;

#[test]
fn each_validation_file_is_evaluated_under_its_own_schema() {
    let rig = Rig::new(&[]);
    let validation = rig.base_model().join("../../validation");
    std::fs::write(validation.join("a.jsonl"), rig::rows_of_binary(1, 2)).unwrap();
    std::fs::write(validation.join("b.jsonl"), "{\"prompt\": \"1 + 1 = \", \"completion\": \"2\"}\n").unwrap();
    std::fs::write(validation.join("b.jsonl.meta.json"), "{\"schema_id\": \"completion_v1\"}").unwrap();
    let evaluated = rig.hone(&["eval", "0", "--json"]).json();
    let of = |suite: &Value| (suite["suite"].as_str().unwrap().to_string(), suite["rows"].as_u64().unwrap());
    let suites: Vec<(String, u64)> = evaluated["suites"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(suites, [("a.jsonl".to_string(), 2), ("b.jsonl".to_string(), 1)]);
    let (low, mean, high) = (
        evaluated["suites"][0]["interval"][0].as_f64().unwrap(),
        evaluated["suites"][0]["mean_nll"].as_f64().unwrap(),
        evaluated["suites"][0]["interval"][1].as_f64().unwrap(),
    );
    assert!(low <= mean && mean <= high, "{evaluated}");
    assert!(evaluated["speed"]["scored_tokens"].as_u64().unwrap() >= 31, "{evaluated}");
    // A second time nothing is computed, and the result is the same.
    let again = rig.hone(&["eval", "0", "--json"]).json();
    assert_eq!((&again["suites"], &again["checkpoint"]), (&evaluated["suites"], &evaluated["checkpoint"]));
    assert_eq!(again["speed"]["scored_tokens"], 0, "{again}");
}
