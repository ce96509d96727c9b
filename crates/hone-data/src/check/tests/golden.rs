//! Every row of `testdata/gates/rows.txt` gets the verdict, the line and the codes that are written there.

use super::*;
use hone_pipeline::finding::Severity;

#[test]
fn golden_rows_get_their_verdicts() {
    let text = include_str!("../../../testdata/gates/rows.txt");
    let folder = Folder::new();
    let mut num_rows = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.splitn(6, " | ").collect();
        let [verdict, at, codes, schema, before, row] = cells[..] else { panic!("{line}") };
        let before: String = serde_json::from_str(before).unwrap();
        let file = folder.file("row.jsonl", format!("{before}{row}\n"));
        let request = CheckRequest { schema_id: schema.to_string(), ..request(&file) };
        let report = check_file(&request, &|_| {});
        let mut found: Vec<String> = report
            .findings
            .iter()
            .map(|f| format!("{}{}", f.code, if f.severity == Severity::Warning { "?" } else { "" }))
            .collect();
        let mut expected: Vec<&str> = codes.split(' ').filter(|code| *code != "-").collect();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{line}");
        assert_eq!(report.is_accepted(), verdict == "accepted", "{line}");
        let at: u64 = at.parse().unwrap();
        assert!(report.findings.iter().all(|f| f.lines == [at]), "{line}: {:?}", report.findings);
        num_rows += 1;
    }
    assert!(num_rows >= 200, "{num_rows}");
}
