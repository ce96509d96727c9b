//! Tests of `reader`.

use super::*;
use crate::example::Message;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::io::Read;

type Lines = (Vec<(u64, Vec<u8>)>, Vec<(u64, u64)>);

fn read_all(source: impl Read, limit: u64, min_bytes: usize) -> Lines {
    let mut reader = LineReader::new(source, limit);
    let (mut lines, mut too_long) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block(min_bytes).unwrap() {
        lines.extend(block.rows().map(|(line, bytes)| (line, bytes.to_vec())));
        too_long.extend(block.bad().iter().map(|(line, bad)| match bad {
            BadRow::TooLong(size) => (*line, *size),
            BadRow::Cells { .. } => panic!("lines have no cells"),
        }));
        // Every other block, so that both kinds of memory are used.
        if lines.len() % 2 == 0 {
            reader.recycle(block);
        }
    }
    (lines, too_long)
}

/// The same by splitting the whole text.
fn split_all(bytes: &[u8], limit: u64) -> Lines {
    let (mut lines, mut too_long) = (Vec::new(), Vec::new());
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = i as u64 + 1;
        if line.len() as u64 > limit {
            too_long.push((number, line.len() as u64));
            continue;
        }
        let line = if i == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.trim_ascii().is_empty() {
            lines.push((number, line.to_vec()));
        }
    }
    (lines, too_long)
}

/// A source that gives a few bytes at a time.
struct Drip<'a>(&'a [u8], ChaCha8Rng);

impl Read for Drip<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = self.1.random_range(1..6usize).min(self.0.len()).min(out.len());
        out[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn numbers_are_physical_lines_with_blank_lines_crlf_and_a_byte_order_mark() {
    let (lines, _) = read_all(&b"\xef\xbb\xbfa\r\n\r\n  \nb\n\n\nc"[..], 100, 1);
    assert_eq!(lines, [(1, b"a".to_vec()), (4, b"b".to_vec()), (7, b"c".to_vec())]);
}

#[test]
fn a_line_over_the_limit_is_given_up_and_the_next_ones_are_read() {
    let text = [b"ab\n".as_slice(), &b"x".repeat(1_000_000), b"\ncd\n", &b"y".repeat(11)].concat();
    let (lines, too_long) = read_all(&text[..], 10, 1);
    assert_eq!(lines, [(1, b"ab".to_vec()), (3, b"cd".to_vec())]);
    assert_eq!(too_long, [(2, 1_000_000), (4, 11)]);
}

/// A long line passes through without being held.
#[test]
fn a_huge_line_is_not_held() {
    let source = std::io::repeat(b'x').take(64 << 20);
    let mut reader = LineReader::new(source, 1000);
    let block = reader.next_block(1).unwrap().unwrap();
    assert_eq!(block.bad(), [(1, BadRow::TooLong(64 << 20))]);
    assert!(reader.partial.capacity() <= 1 << 20, "{}", reader.partial.capacity());
}

/// Random bytes, cut at random places, read in random blocks, equal splitting the whole.
#[test]
fn reading_in_pieces_equals_splitting_the_whole() {
    for seed in 0..500 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let alphabet = b"\n\n\r \x00a\xef\xbb\xbf{\xff\"";
        let bytes: Vec<u8> =
            (0..rng.random_range(0..200)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
        let limit = rng.random_range(0..30);
        let expected = split_all(&bytes, limit);
        assert_eq!(read_all(&bytes[..], limit, rng.random_range(0..50)), expected, "seed {seed}");
        let min_bytes = rng.random_range(0..50);
        assert_eq!(read_all(Drip(&bytes, rng), limit, min_bytes), expected, "seed {seed}, dripping");
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn rows_are_examples_with_lines_and_names() {
    let text = "{\"text\":\"a\"}\n\n{\"prompt\":\"b\",\"completion\":\"c\"}\r\n{\"text\":\"a\"}";
    let (one, other) = (file(text), file(text));
    let read = |path: &Path| rows(path, "completion_v1").unwrap().collect::<Result<Vec<_>>>().unwrap();
    let rows = read(one.path());
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(rows[1].example, Example::Completion { prompt: Some("b".into()), completion: "c".into() });
    assert_ne!(rows[0].id, rows[2].id, "the same bytes in another line are another row");
    assert_eq!(rows, read(other.path()), "the name of the file does not count");
}

#[test]
fn a_bad_line_is_an_item_with_its_number() {
    let file = file("{\"text\":\"a\"}\n{\"text\":1}\n{\n{\"text\":\"b\"}\n");
    let items: Vec<_> = rows(file.path(), "completion_v1").unwrap().collect();
    assert_eq!(items.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
    let error = format!("{:#}", items[1].as_ref().unwrap_err());
    assert!(error.ends_with("line 2: the column \"text\" is a number, not a string"), "{error}");
    assert!(rows(file.path(), "nope").unwrap_err().to_string().contains("not known"));
    assert!(rows(Path::new("/nowhere/x.jsonl"), "completion_v1").is_err());
}

#[track_caller]
fn chat_of(schema: &str, row: &str) -> Vec<Message> {
    match parse_row(spec::find(schema).unwrap(), 1, row.as_bytes()).unwrap().example {
        Example::Chat { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_conversation_format_maps_to_messages() {
    let expected = [Message::new("system", "s"), Message::new("user", "a"), Message::new("assistant", "b")];
    let rows = [
        (
            "chat_sft_v1",
            r#"{"messages":[{"role":"user","content":"a","x":1},{"role":"assistant","content":"b","name":null}],"system_prompt":"s"}"#,
        ),
        (
            "chat_sft_v1",
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"system_prompt":"s"}"#,
        ),
        ("sharegpt_v1", r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"system":"s"}"#),
        ("alpaca_v1", r#"{"instruction":"a","input":"","output":"b","system":"s"}"#),
    ];
    for (schema, row) in rows {
        assert_eq!(chat_of(schema, row), expected, "{row}");
    }
    assert_eq!(chat_of("alpaca_v1", r#"{"instruction":"a","input":"i","output":"b"}"#)[0].content, "a\n\ni");
}

#[test]
fn tools_and_calls_are_kept() {
    let row = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}],"tools":[{"type":"function"}]}"#;
    let row = parse_row(spec::find("chat_sft_v1").unwrap(), 1, row.as_bytes()).unwrap();
    let Example::Chat { messages, tools } = row.example else { panic!() };
    assert_eq!(tools.unwrap()[0]["type"], "function");
    assert_eq!(messages[1].extra["tool_calls"][0]["function"]["arguments"]["x"], 1);
}

#[test]
fn a_row_is_found_by_the_number_that_findings_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\": \"a\"}\n\nno JSON\n{\"text\": \"d\"}\n").unwrap();
    let completion = |line| {
        row_at(&path, "completion_v1", line).map(|row| {
            row.map(|row| match row.example {
                Example::Completion { completion, .. } => (row.line, completion),
                Example::Chat { .. } => panic!("a completion"),
            })
        })
    };
    assert_eq!(completion(4).unwrap(), Some((4, "d".to_string())), "whatever is wrong before it");
    assert_eq!((completion(2).unwrap(), completion(9).unwrap()), (None, None));
    let error = format!("{:#}", completion(3).unwrap_err());
    assert!(error.contains("line 3"), "{error}");
}
