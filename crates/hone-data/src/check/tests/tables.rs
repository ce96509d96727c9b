//! Tests of CSV, TSV and Parquet files.

use super::*;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;

#[track_caller]
fn check_table(name: &str, schema_id: &str, bytes: impl AsRef<[u8]>, expected: &[&str]) -> Report {
    let folder = Folder::new();
    let request = CheckRequest { schema_id: schema_id.to_string(), ..request(&folder.file(name, &bytes)) };
    let report = check_file(&request, &|_| {});
    assert_eq!(summary(&report), expected, "{:#?}", report.findings);
    assert_eq!(report.blake3, blake3::hash(bytes.as_ref()).to_hex().to_string());
    report
}

#[test]
fn csv_rows_have_the_line_on_which_they_begin() {
    let text = "\u{feff}instruction,input,output\r\nadd,\"1,\n2\",3\r\nsay,,\"\"\"hi\"\"\"\r\n\r\nx,y,\r\nq,r\r\n";
    let report = check_table("a.csv", "alpaca_v1", text, &["error content_empty x1 [6]", "error csv_cells x1 [7]"]);
    assert_eq!(report.rows, 4);
    check_table("a.tsv", "completion_v1", "prompt\tcompletion\na\tb\n\tc\n", &[]);
    check_table(
        "a.csv",
        "completion_v1",
        "prompt,other\na,b\n",
        &["error column_missing x1 [2]", "warning column_unknown x1 [2]"],
    );
    check_table("a.csv", "completion_v1", b"text\ncaf\xe9\n", &["error utf8_invalid x1 [2]"]);
    check_table("a.csv", "completion_v1", "text\n", &["error no_rows x1 []"]);
}

#[test]
fn a_cell_may_hold_a_list_of_messages() {
    let messages = r#"[{""role"":""user"",""content"":""a""},{""role"":""assistant"",""content"":""b""}]"#;
    check_table("a.csv", "chat_sft_v1", format!("messages,difficulty\n\"{messages}\",easy\n"), &[]);
    check_table("a.csv", "chat_sft_v1", "messages\nhello\n", &["error column_type x1 [2]"]);
}

#[test]
fn an_open_quote_does_not_fill_the_memory() {
    let folder = Folder::new();
    let text = format!("text\na\n\"{}", "x".repeat(2 << 20));
    let file = folder.file("a.csv", text);
    let request = CheckRequest { schema_id: "completion_v1".to_string(), max_line_bytes: 1000, ..request(&file) };
    let report = check_file(&request, &|_| {});
    assert_eq!(summary(&report), ["error line_too_long x1 []"]);
    assert!(report.findings[0].message.contains("line 3"), "{:?}", report.findings);
}

/// `instruction`, `output` (optional) and a list of texts, written by the library's own writer.
fn parquet(rows: &[(&str, Option<&str>)]) -> Vec<u8> {
    let schema = "message rows { required binary instruction (UTF8); optional binary output (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let of = |text: &str| parquet::data_type::ByteArray::from(text.as_bytes().to_vec());
    let mut column = group.next_column().unwrap().unwrap();
    let instructions: Vec<_> = rows.iter().map(|(instruction, _)| of(instruction)).collect();
    column.typed::<parquet::data_type::ByteArrayType>().write_batch(&instructions, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let outputs: Vec<_> = rows.iter().filter_map(|(_, output)| output.map(of)).collect();
    let levels: Vec<i16> = rows.iter().map(|(_, output)| i16::from(output.is_some())).collect();
    column.typed::<parquet::data_type::ByteArrayType>().write_batch(&outputs, Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_rows_have_their_number() {
    let bytes = parquet(&[("a", Some("b")), ("c", None), ("d", Some("")), ("e", Some("f"))]);
    let report =
        check_table("a.parquet", "alpaca_v1", &bytes, &["error column_missing x1 [2]", "error content_empty x1 [3]"]);
    assert_eq!((report.rows, report.size_bytes), (4, bytes.len() as u64));
}

#[test]
fn damaged_parquet_is_refused_and_never_panics() {
    let whole = parquet(&[("a", Some("b")), ("c", Some("d"))]);
    let folder = Folder::new();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xa5;
        let request = CheckRequest { schema_id: "alpaca_v1".to_string(), ..request(&folder.file("a.parquet", &bytes)) };
        let report = check_file(&request, &|_| {});
        assert!(report.rows <= 2 || !report.is_accepted(), "byte {at}");
    }
    let request =
        |bytes: &[u8]| CheckRequest { schema_id: "alpaca_v1".to_string(), ..request(&folder.file("a.parquet", bytes)) };
    for len in [0, 3, 11, whole.len() - 1] {
        let report = check_file(&request(&whole[..len]), &|_| {});
        assert_eq!(report.findings[0].code, "file_damaged", "{len}");
    }
    let report = check_file(&CheckRequest { max_unpacked_bytes: 10, ..request(&whole) }, &|_| {});
    assert_eq!(summary(&report), ["error unpacked_too_large x1 []"]);
}
