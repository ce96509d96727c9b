//! What every target does: both gates, deep, over the bytes as a file of one format. It must not panic, must end, and
//! must say the same twice.

use hone_data::check::check_file;
use hone_pipeline::config::Overlong;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::{Level, Report, SchemaOrigin};
use hone_pipeline::wire::CheckRequest;
use std::path::PathBuf;

pub fn check(extension: &str, schema_id: &str, data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(format!("data.{extension}"));
    std::fs::write(&file, data).expect("write the file");
    let (one, two) = (run(file.clone(), schema_id), run(file, schema_id));
    assert_eq!(Report { elapsed_ms: 0, ..one }, Report { elapsed_ms: 0, ..two });
}

fn run(file: PathBuf, schema_id: &str) -> Report {
    let request = CheckRequest {
        format_version: 1,
        file,
        schema_id: schema_id.to_string(),
        schema_origin: SchemaOrigin::Default,
        level: Level::Deep,
        model_dir: None,
        max_length: 1024,
        overlong: Overlong::Skip,
        profile: Default::default(),
        chat_template_kwargs: serde_json::Map::new(),
        max_line_bytes: 1 << 16,
        max_file_bytes: 1 << 20,
        max_unpacked_bytes: 1 << 22,
        content: ContentSettings::default(),
        compare: Vec::new(),
        background: false,
    };
    check_file(&request, &|_| {})
}
