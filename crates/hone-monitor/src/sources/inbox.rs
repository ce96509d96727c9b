//! `inbox`: `{num_files, size_bytes, oldest_ms, files: [{name, size_bytes, modified_ms}]}`, oldest first: what lies in `inbox/`
//! and its folders, however far it is. Hidden files and sidecars are left out.

use crate::clock;
use serde_json::{Value, json};
use std::path::Path;

/// Files listed; `num_files` has their number.
const MAX_FILES: usize = 20;
/// Files looked at; a fuller inbox is told as this many.
const MAX_SEEN: usize = 20_000;
/// Folders below the inbox that are looked into.
const MAX_DEPTH: usize = 4;

struct Found {
    name: String,
    size_bytes: u64,
    modified_ms: u64,
}

pub(super) fn read(inbox: &Path) -> Value {
    let mut files = Vec::new();
    collect(inbox, "", MAX_DEPTH, &mut files);
    files.sort_by_key(|file| file.modified_ms);
    let listed = files.iter().take(MAX_FILES).map(|Found { name, size_bytes, modified_ms }| {
        json!({ "name": name, "size_bytes": size_bytes, "modified_ms": modified_ms })
    });
    json!({
        "num_files": files.len(),
        "size_bytes": files.iter().map(|file| file.size_bytes).sum::<u64>(),
        "oldest_ms": files.first().map(|file| file.modified_ms),
        "files": listed.collect::<Vec<_>>(),
    })
}

fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Found>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(info) = entry.metadata() else { continue };
        if name.starts_with('.') || name.ends_with(".meta.json") || files.len() >= MAX_SEEN {
            continue;
        }
        if info.is_dir() && depth > 0 {
            collect(&entry.path(), &format!("{prefix}{name}/"), depth - 1, files);
        } else if info.is_file() {
            let modified_ms = info.modified().map_or(0, clock::ms_of);
            files.push(Found { name: format!("{prefix}{name}"), size_bytes: info.len(), modified_ms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_data_files_of_all_folders_and_no_others() {
        let inbox = tempfile::tempdir().unwrap();
        std::fs::create_dir(inbox.path().join("high")).unwrap();
        for (name, text) in [("a.jsonl", "12"), ("high/b.jsonl", "3"), (".hidden", "4"), ("a.jsonl.meta.json", "{}")] {
            std::fs::write(inbox.path().join(name), text).unwrap();
        }
        let told = read(inbox.path());
        assert_eq!((&told["num_files"], &told["size_bytes"]), (&json!(2), &json!(3)));
        let mut names: Vec<&str> =
            told["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a.jsonl", "high/b.jsonl"]);
        assert_eq!(read(&inbox.path().join("absent"))["num_files"], 0);
    }
}
