//! A verdict depends on each row and the schema alone.

use super::*;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Rows good and bad, of several shapes.
fn random_row(rng: &mut ChaCha8Rng) -> Value {
    let role = |rng: &mut ChaCha8Rng| ["user", "assistant", "system", "tool", "bot"][rng.random_range(0..5)];
    let content = |rng: &mut ChaCha8Rng| match rng.random_range(0..8) {
        0 => Value::Null,
        1 => json!(""),
        2 => json!(7),
        3 => json!(["x"]),
        n => json!(format!("text {n} \u{7}é")),
    };
    match rng.random_range(0..10) {
        0 => json!([1, 2]),
        1 => json!({"text": "a"}),
        2 => json!({"messages": content(rng)}),
        3..=5 => {
            let messages: Vec<Value> =
                (0..rng.random_range(0..4)).map(|_| json!({"role": role(rng), "content": content(rng)})).collect();
            json!({"messages": messages})
        }
        n => json!({"messages": [{"role": "user", "content": format!("q{n}")}, {"role": "assistant", "content": "a"}]}),
    }
}

/// The codes of each line, from files of one row each.
fn codes_of(folder: &Folder, rows: &[String]) -> BTreeMap<u64, Vec<String>> {
    let file = folder.file("all.jsonl", rows.join("\n"));
    let report = check_file(&request(&file), &|_| {});
    let mut codes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for finding in &report.findings {
        assert!(finding.count <= 20, "few enough rows that all lines are listed");
        for line in &finding.lines {
            codes.entry(*line).or_default().push(finding.code.clone());
        }
    }
    codes.values_mut().for_each(|codes| codes.sort());
    codes
}

#[test]
fn the_order_of_rows_changes_nothing_but_their_lines() {
    let folder = Folder::new();
    for seed in 0..60 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let rows: Vec<String> = (0..18).map(|_| random_row(rng).to_string()).collect();
        let codes = codes_of(&folder, &rows);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.shuffle(rng);
        let shuffled: Vec<String> = order.iter().map(|i| rows[*i].clone()).collect();
        let found = codes_of(&folder, &shuffled);
        for (new, old) in order.iter().enumerate() {
            assert_eq!(found.get(&(new as u64 + 1)), codes.get(&(*old as u64 + 1)), "seed {seed}: {}", rows[*old]);
        }
    }
}

#[test]
fn null_and_extra_fields_change_no_verdict_and_concern_their_row_only() {
    let folder = Folder::new();
    for seed in 0..60 {
        let rng = &mut ChaCha8Rng::seed_from_u64(1000 + seed);
        let rows: Vec<Value> = (0..18).map(|_| random_row(rng)).collect();
        let text = |rows: &[Value]| rows.iter().map(Value::to_string).collect::<Vec<_>>();
        let before = codes_of(&folder, &text(&rows));
        let mut changed = rows.clone();
        let at = rng.random_range(0..rows.len());
        let Some(fields) = changed[at].as_object_mut() else { continue };
        fields.insert("tags".to_string(), Value::Null);
        fields.insert("nothing".to_string(), Value::Null);
        assert_eq!(codes_of(&folder, &text(&changed)), before, "seed {seed}: nulls are harmless");
        changed[at]["surprise"] = json!({"deep": [1, "x"]});
        let mut after = codes_of(&folder, &text(&changed));
        let line = at as u64 + 1;
        let extra = after.get_mut(&line).unwrap();
        assert!(extra.contains(&"column_unknown".to_string()), "seed {seed}");
        if !before.get(&line).is_some_and(|codes| codes.contains(&"column_unknown".to_string())) {
            extra.retain(|code| code != "column_unknown");
        }
        after.retain(|_, codes| !codes.is_empty());
        assert_eq!(after, before, "seed {seed}: an extra field is told of its row and changes nothing else");
    }
}

/// Good rows stay good whatever types the other rows have.
#[test]
fn mixed_types_of_other_rows_do_not_matter() {
    let folder = Folder::new();
    let good = |metadata: Value| {
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "metadata": metadata, "difficulty": metadata}).to_string()
    };
    let rows: Vec<String> =
        [json!(1), json!("x"), json!([1]), json!({"a": 1}), Value::Null, json!(true), json!(1.5)].map(good).into();
    assert!(codes_of(&folder, &rows).is_empty());
}
