//! Rows for the dashboard: `hone data show` in a process of its own, so that a large tokenizer or row never becomes the
//! monitor's.

use crate::workspace::Workspace;
use hone_monitor::{RowAsked, RowDoor};
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a row may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether it is there.
const POLL: Duration = Duration::from_millis(5);
/// The longest answer: more is not for a page.
const MAX_BYTES: u64 = 8 << 20;

/// The way to rows of files of this workspace, under its present settings.
pub fn row_door(ws: &Workspace) -> RowDoor {
    let ws = ws.clone();
    Arc::new(move |asked| show(&ws, asked))
}

fn show(ws: &Workspace, asked: &RowAsked) -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--root").arg(&ws.root);
    for (key, value) in &ws.set {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.args(["data", "show", "--json", "--row", &asked.line.to_string()]);
    if let Some(schema_id) = &asked.schema_id {
        command.args(["--schema", schema_id]);
    }
    command.arg(&asked.file).env_remove("HONE_ADMIN_KEY").env_remove("HONE_READ_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.take(MAX_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    let started = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status.success()),
            Ok(None) if started.elapsed() < LIMIT => std::thread::sleep(POLL),
            Ok(None) => break Err("it takes too long".to_string()),
            Err(error) => break Err(error.to_string()),
        }
    };
    if ended.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
    let bytes = reader.join().map_err(|_| "the reader panicked".to_string())?.map_err(|error| error.to_string())?;
    match ended? {
        true if bytes.len() as u64 <= MAX_BYTES => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        true => Err(format!("its tokens take more than {MAX_BYTES} bytes")),
        false => Err("`hone data show` refused".to_string()),
    }
}
