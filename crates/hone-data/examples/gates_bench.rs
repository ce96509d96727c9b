//! One check of a file for `benches/gates_vs_python`: `gates_bench LEVEL FILE MODEL` prints seconds, rows, tokens, the
//! SHA-256 of all token ids (level `standard`, outside the measured time) and the peak memory as one line of JSON.

use anyhow::{Context, Result};
use hone_data::check::check_file;
use hone_data::{ChatContext, tokenize};
use hone_pipeline::config::Overlong;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::{Level, SchemaOrigin};
use hone_pipeline::wire::{CheckRequest, WIRE_FORMAT_VERSION};
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [level, file, model] = arguments.as_slice() else { anyhow::bail!("gates_bench LEVEL FILE MODEL") };
    let level: Level = serde_json::from_value(json!(level)).context("read the level")?;
    let request = CheckRequest {
        format_version: WIRE_FORMAT_VERSION,
        file: PathBuf::from(file),
        schema_id: "chat_sft_v1".to_string(),
        schema_origin: SchemaOrigin::Default,
        level,
        model_dir: Some(PathBuf::from(model)),
        max_length: 8192,
        overlong: Overlong::Skip,
        profile: Default::default(),
        chat_template_kwargs: Map::new(),
        max_line_bytes: 100 << 20,
        max_file_bytes: 10 << 30,
        max_unpacked_bytes: 10 << 30,
        content: ContentSettings::default(),
        compare: Vec::new(),
        background: false,
    };
    let start = Instant::now();
    let report = check_file(&request, &|_| {});
    let seconds = start.elapsed().as_secs_f64();
    let peak_memory_bytes = peak_memory().context("read the peak memory")?;
    let ids = if level == Level::Standard { digest_of_ids(Path::new(file), Path::new(model))? } else { String::new() };
    let line = json!({
        "seconds": seconds,
        "rows": report.rows,
        "tokens": report.stats.map_or(0, |stats| stats.num_tokens),
        "ids": ids,
        "findings": report.findings.iter().map(|f| format!("{} x{}", f.code, f.count)).collect::<Vec<_>>(),
        "peak_memory_bytes": peak_memory_bytes,
    });
    writeln!(std::io::stdout(), "{line}").context("print the result")
}

/// SHA-256 over the ids of all rows, four bytes each, in order.
fn digest_of_ids(file: &Path, model: &Path) -> Result<String> {
    let ctx = ChatContext::from_dir(model, &Default::default(), &Map::new())?;
    let mut hasher = Sha256::new();
    for row in hone_data::rows(file, "chat_sft_v1")? {
        for part in tokenize::tokenize(&ctx, &row?)? {
            part.ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `VmHWM` of this process in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
