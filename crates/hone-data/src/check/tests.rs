//! Tests of `check`.

use super::*;
use crate::tiny;
use hone_pipeline::config::ProfileSettings;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::SchemaOrigin;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

mod extras;
mod golden;
mod planted;
mod properties;
mod tables;

const GOOD: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;

fn request(file: &Path) -> CheckRequest {
    CheckRequest {
        format_version: 1,
        file: file.to_path_buf(),
        schema_id: "chat_sft_v1".to_string(),
        schema_origin: SchemaOrigin::Default,
        level: Level::Quick,
        model_dir: None,
        max_length: 1024,
        overlong: Overlong::Skip,
        profile: Default::default(),
        chat_template_kwargs: serde_json::Map::new(),
        max_line_bytes: 100_000_000,
        max_file_bytes: 10_000_000_000,
        max_unpacked_bytes: 10_000_000_000,
        content: ContentSettings::default(),
        compare: Vec::new(),
        background: false,
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A model folder with the tiny tokenizer and template.
    fn model(&self) -> PathBuf {
        let tokenizer = tiny::build_tokenizer(std::iter::empty(), 259).unwrap();
        self.file("tokenizer.json", tokenizer.to_string());
        self.file("tokenizer_config.json", tiny::tokenizer_config().to_string());
        self.file("generation_config.json", tiny::generation_config().to_string());
        self.0.path().to_path_buf()
    }
}

/// All findings as `code severity xCOUNT lines`.
fn summary(report: &Report) -> Vec<String> {
    let one = |f: &hone_pipeline::finding::Finding| {
        let severity = if f.severity == Severity::Error { "error" } else { "warning" };
        format!("{severity} {} x{} {:?}", f.code, f.count, f.lines)
    };
    report.findings.iter().map(one).collect()
}

#[track_caller]
fn check(bytes: impl AsRef<[u8]>, expected: &[&str]) -> Report {
    let folder = Folder::new();
    let report = check_file(&request(&folder.file("data.jsonl", &bytes)), &|_| {});
    assert_eq!(summary(&report), expected, "{:#?}", report.findings);
    assert_eq!(report.is_accepted(), !expected.iter().any(|line| line.starts_with("error")));
    assert_eq!(report.blake3, blake3::hash(bytes.as_ref()).to_hex().to_string());
    assert_eq!(report.size_bytes, bytes.as_ref().len() as u64);
    report
}

#[test]
fn accepts_a_good_file() {
    let report = check(format!("{GOOD}\n\n{GOOD}\r\n"), &[]);
    assert_eq!((report.rows, report.level), (2, Level::Quick));
    let written = serde_json::to_value(&report).unwrap();
    assert_eq!(written.get("stats"), Some(&serde_json::Value::Null), "programs find every key at every level");
}

#[test]
fn a_bad_line_seven_is_named() {
    let mut lines = [GOOD; 9];
    lines[6] = r#"{"messages": [}"#;
    let report = check(lines.join("\n"), &["error json_syntax x1 [7]"]);
    let line = report.error_lines().next().unwrap();
    assert_eq!(line, "line 7: the line is not JSON: expected value column 15");
    assert_eq!(report.findings[0].evidence.as_deref(), Some(r#"{\"messages\": [}"#));
}

#[test]
fn garbage_and_emptiness_are_clear_findings() {
    check(b"\x9d\x01\xff", &["error utf8_invalid x1 [1]"]);
    check("abc", &["error json_syntax x1 [1]"]);
    check("", &["error file_empty x1 []"]);
    check("\n \r\n\n", &["error no_rows x1 []"]);
    check("\u{feff}\n", &["error no_rows x1 []"]);
    check(b"\x00\x00\x00\n", &["error nul_byte x1 [1]"]);
    check(b"\x1f\x8b\x08\x00", &["error file_not_text x1 []", "error utf8_invalid x1 [1]"]);
    check([b"\xff\xfe{\0".as_slice(), b"}\0"].concat(), &["error file_not_text x1 []", "error utf8_invalid x1 [1]"]);
    check("[".repeat(5000), &["error json_too_deep x1 [1]"]);
    check(format!("[{GOOD}]"), &["error row_not_object x1 [1]"]);
}

#[test]
fn content_problems_are_findings() {
    let chat = |user: &str, assistant: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"{user}"}},{{"role":"assistant","content":"{assistant}"}}]}}"#
        )
    };
    check(chat("", " \\n"), &["error content_empty x1 [1]"]);
    check(chat("a", "b\\u0000"), &["error control_nul x1 [1]"]);
    check(chat("a\\u001b[1m", "b\\u0085\\t\\r\\n"), &["warning control_character x1 [1]"]);
    check(chat("a", "é Â"), &[]);
    check(chat("a", "\\ud800"), &["error json_syntax x1 [1]"]);
    check(chat("a", "b\tc"), &["error json_syntax x1 [1]"]);
    check(
        r#"{"messages":[{"role":"user","content":"a","content":"b"},{"role":"assistant","content":"c"}]}"#,
        &["warning key_duplicate x1 [1]"],
    );
}

#[test]
fn findings_list_the_first_twenty_lines_and_the_count() {
    let report =
        check("{}\n".repeat(3000), &[&format!("error column_missing x3000 {:?}", (1..=20).collect::<Vec<_>>())]);
    assert_eq!(report.rows, 3000);
    assert_eq!(report.error_lines().next().unwrap(), "line 1 and 2999 more: the column \"messages\" is missing");
}

#[test]
fn another_schema_that_fits_is_named_and_nothing_is_reinterpreted() {
    let report =
        check(r#"{"instruction":"a","output":"b"}"#, &["error column_missing x1 [1]", "warning column_unknown x1 [1]"]);
    assert!(report.findings[0].hint.contains("--schema alpaca_v1"), "{}", report.findings[0].hint);
}

#[test]
fn an_unknown_schema_is_refused_before_rows_are_read() {
    let folder = Folder::new();
    let request = CheckRequest { schema_id: "chess_v1".to_string(), ..request(&folder.file("a.jsonl", GOOD)) };
    let report = check_file(&request, &|_| {});
    assert_eq!(summary(&report), ["error schema_unknown x1 []"]);
    assert_eq!((report.rows, report.blake3.as_str()), (0, ""));
}

#[test]
fn formats_that_are_not_read_are_refused_by_name() {
    let folder = Folder::new();
    for name in ["a.jsonl.bz2", "a.XZ", "a.zip", "a.parquet.gz", "a.arrow"] {
        let report = check_file(&request(&folder.file(name, GOOD)), &|_| {});
        assert_eq!(summary(&report), ["error format_not_read x1 []"], "{name}");
        assert!(report.findings[0].message.contains("JSONL"));
    }
}

#[test]
fn packed_files_keep_their_line_numbers_and_the_hash_of_what_lies_there() {
    let folder = Folder::new();
    let text = format!("{GOOD}\n\n{{\n{GOOD}\n");
    for (name, bytes) in
        [("a.jsonl.gz", gzip(text.as_bytes())), ("a.jsonl.zst", zstd::encode_all(text.as_bytes(), 3).unwrap())]
    {
        let report = check_file(&request(&folder.file(name, &bytes)), &|_| {});
        assert_eq!(summary(&report), ["error json_syntax x1 [3]"], "{name}");
        assert_eq!((report.rows, report.size_bytes), (3, bytes.len() as u64));
        assert_eq!(report.blake3, blake3::hash(&bytes).to_hex().to_string());
        let cut = check_file(&request(&folder.file(&format!("cut-{name}"), &bytes[..bytes.len() - 5])), &|_| {});
        assert_eq!(cut.findings[0].code, "file_torn", "{name}: {:?}", cut.findings);
        let mut damaged = bytes.clone();
        damaged[0] ^= 0x55;
        let report = check_file(&request(&folder.file(&format!("bad-{name}"), damaged)), &|_| {});
        assert_eq!(report.findings[0].code, "file_damaged", "{name}: {:?}", report.findings);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// 64 MiB of nothing packed into some kilobytes is refused by the limit's name, as one line and as many.
#[test]
fn a_bomb_is_refused_by_the_name_of_its_limit() {
    let folder = Folder::new();
    for (name, byte) in [("a.jsonl.gz", b' '), ("b.jsonl.gz", b'\n')] {
        let bytes = gzip(&vec![byte; 64 << 20]);
        assert!(bytes.len() < 100_000);
        let request = CheckRequest { max_unpacked_bytes: 1 << 20, ..request(&folder.file(name, bytes)) };
        let report = check_file(&request, &|_| {});
        assert_eq!(summary(&report), ["error unpacked_too_large x1 []"]);
        assert!(report.findings[0].hint.contains("validation.max_unpacked_bytes"));
    }
}

#[test]
fn limits_hold() {
    let folder = Folder::new();
    let file = folder.file("a.jsonl", format!("{GOOD}\n{}\n{GOOD}\n", "x".repeat(500)));
    let report = check_file(&CheckRequest { max_line_bytes: 200, ..request(&file) }, &|_| {});
    assert_eq!(summary(&report), ["error line_too_long x1 [2]"]);
    assert_eq!(report.rows, 3);
    let report = check_file(&CheckRequest { max_file_bytes: 100, ..request(&file) }, &|_| {});
    assert_eq!(summary(&report), ["error file_too_large x1 []"]);
    let report = check_file(&request(Path::new("/nowhere/a.jsonl")), &|_| {});
    assert_eq!(summary(&report), ["error file_unreadable x1 []"]);
    let report = check_file(&request(folder.0.path()), &|_| {});
    assert_eq!(summary(&report), ["error file_unreadable x1 []"]);
}

#[test]
fn without_a_model_tokens_are_not_counted_and_the_report_says_so() {
    let folder = Folder::new();
    let file = folder.file("a.jsonl", GOOD);
    for level in [Level::Standard, Level::Deep] {
        let report = check_file(&CheckRequest { level, ..request(&file) }, &|_| {});
        assert_eq!(summary(&report), ["warning tokens_not_counted x1 []"]);
        assert_eq!(report.level, level, "the level that ran");
        assert_eq!(
            report.stats.unwrap().balance.unwrap().roles,
            [("assistant", 1), ("user", 1)].map(|(k, n)| (k.to_string(), n)).into()
        );
    }
}

/// `<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n` under a tokenizer of single bytes:
/// 1+5+1+1+1 + 1+10+1+1+1 = 23 tokens with the two line ends, of which `b` and its end are trained.
#[test]
fn tokens_are_counted_under_the_model() {
    let folder = Folder::new();
    let other = GOOD.replace("\"a\"", "\"c\"");
    let file = folder.file("a.jsonl", format!("{GOOD}\n{other}\n"));
    let request = CheckRequest { level: Level::Standard, model_dir: Some(folder.model()), ..request(&file) };
    let report = check_file(&request, &|_| {});
    assert_eq!(summary(&report), [""; 0]);
    let stats = report.stats.unwrap();
    assert_eq!((stats.num_tokens, stats.num_trained_tokens, stats.num_overlong_rows), (46, 4, 0));
    assert_eq!(
        (stats.min_row_tokens, stats.median_row_tokens, stats.p99_row_tokens, stats.max_row_tokens),
        (23, 23, 23, 23)
    );
    assert_eq!((stats.overlong_share, stats.trained_share), (0.0, 4.0 / 46.0));
    let overlong = |overlong, max_length| {
        let report = check_file(&CheckRequest { overlong, max_length, ..request.clone() }, &|_| {});
        (summary(&report), report.stats.unwrap().num_overlong_rows)
    };
    assert_eq!(overlong(Overlong::Reject, 22), (vec!["error row_overlong x2 [1, 2]".to_string()], 2));
    let (findings, _) = overlong(Overlong::Skip, 22);
    assert_eq!(findings, ["error nothing_fits x1 []", "warning row_overlong x2 [1, 2]"]);
    let (findings, _) = overlong(Overlong::TruncatePrompt, 22);
    assert_eq!(findings, ["warning row_overlong x2 [1, 2]"]);
}

#[test]
fn rows_without_a_mask_are_findings_with_their_lines() {
    let folder = Folder::new();
    let model = folder.model();
    folder.file("chat_template.jinja", "{% for m in messages %}{% if m.content == 'x' %}{{ raise_exception('no x') }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}");
    let file = folder.file("a.jsonl", format!("{GOOD}\n{}\n", GOOD.replace("\"a\"", "\"x\"")));
    let report =
        check_file(&CheckRequest { level: Level::Standard, model_dir: Some(model), ..request(&file) }, &|_| {});
    assert_eq!(summary(&report), ["error template_refuses x1 [2]"]);
    assert!(report.findings[0].message.ends_with("no x"));
}

#[test]
fn a_model_that_cannot_be_read_blocks() {
    let folder = Folder::new();
    let file = folder.file("a.jsonl", GOOD);
    let model_dir = Some(folder.0.path().join("none"));
    let report = check_file(&CheckRequest { level: Level::Standard, model_dir, ..request(&file) }, &|_| {});
    assert_eq!(summary(&report), ["error model_unusable x1 []"]);
}

/// Random bytes and randomly damaged good files never panic, and every row is counted.
#[test]
fn nothing_in_a_file_makes_the_check_panic() {
    let folder = Folder::new();
    let path = folder.file("a.jsonl", "");
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes: Vec<u8> = match seed % 2 {
            0 => (0..rng.random_range(0..400)).map(|_| rng.random_range(0..=255)).collect(),
            _ => format!("{GOOD}\n").repeat(rng.random_range(1..6)).into_bytes(),
        };
        for _ in 0..rng.random_range(0..6) {
            if !bytes.is_empty() {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random_range(0..=255);
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let report = check_file(&CheckRequest { max_line_bytes: 120, ..request(&path) }, &|_| {});
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let rows = text.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
        assert_eq!(report.rows, rows as u64, "seed {seed}");
    }
}

/// Rows are checked in parallel; findings must not depend on it.
#[test]
fn findings_are_in_the_order_of_lines() {
    let lines: Vec<String> =
        (0..5000).map(|i| if i % 700 == 699 { "{".to_string() } else { GOOD.to_string() }).collect();
    check(lines.join("\n"), &["error json_syntax x7 [700, 1400, 2100, 2800, 3500, 4200, 4900]"]);
}

/// The seeds of the fuzz targets and damaged copies of them: no panic, an end, and the same report twice.
#[test]
fn seeds_of_the_fuzz_targets() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let folder = Folder::new();
    let targets = [
        ("jsonl", "jsonl", "chat_sft_v1"),
        ("gzip", "jsonl.gz", "chat_sft_v1"),
        ("zstd", "jsonl.zst", "completion_v1"),
        ("csv", "csv", "chat_sft_v1"),
        ("parquet", "parquet", "alpaca_v1"),
    ];
    let mut num_seeds = 0;
    for (target, extension, schema_id) in targets {
        for entry in std::fs::read_dir(seeds.join(target)).unwrap() {
            let whole = std::fs::read(entry.unwrap().path()).unwrap();
            num_seeds += 1;
            let rng = &mut ChaCha8Rng::seed_from_u64(num_seeds);
            for damage in 0..12 {
                let mut bytes = whole.clone();
                for _ in 0..damage {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random_range(0..=255);
                }
                if damage > 8 {
                    bytes.truncate(rng.random_range(0..bytes.len()));
                }
                let request = CheckRequest {
                    schema_id: schema_id.to_string(),
                    level: Level::Deep,
                    max_line_bytes: 1 << 16,
                    max_unpacked_bytes: 1 << 22,
                    ..request(&folder.file(&format!("seed.{extension}"), &bytes))
                };
                let (one, two) = (check_file(&request, &|_| {}), check_file(&request, &|_| {}));
                assert_eq!(Report { elapsed_ms: 0, ..one }, Report { elapsed_ms: 0, ..two });
            }
        }
    }
    assert!(num_seeds >= 20, "{num_seeds}");
}

#[test]
fn markers_in_the_wrong_order_or_doubled_are_a_finding_under_their_profile() {
    let row = |answer: &str| {
        let messages = serde_json::json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]);
        format!("{}\n", serde_json::json!({ "messages": messages }))
    };
    let answers = [
        "5",
        "<<ANS_END>> 5 <<ANS_START>>",
        "<<ANS_START>> 5 <<ANS_END>>",
        "<<ANS_START>> <<ANS_START>> 5 <<ANS_END>>",
    ];
    let folder = Folder::new();
    let file = folder.file("data.jsonl", answers.map(row).concat());
    for level in [Level::Quick, Level::Deep] {
        let request = CheckRequest { level, model_dir: Some(folder.model()), ..request(&file) };
        let report =
            check_file(&CheckRequest { profile: ProfileSettings::named("regime3"), ..request.clone() }, &|_| {});
        assert_eq!(summary(&report)[0], "error profile_refuses x2 [2, 4]", "{:#?}", report.findings);
        assert!(!summary(&check_file(&request, &|_| {})).concat().contains("profile_refuses"), "not under another one");
    }
    let request = CheckRequest { profile: ProfileSettings::named("regime4"), ..request(&file) };
    assert_eq!(summary(&check_file(&request, &|_| {})), ["error profile_unknown x1 []"]);
}
