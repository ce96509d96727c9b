//! Sizes of files with a ratchet, module documentation, names that do not belong here.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Longest source file in lines, tests apart.
const MAX_LINES: usize = 500;
/// Longest test file in lines.
const MAX_TEST_LINES: usize = 800;
/// Files that are longer for now: the ratchet only goes down.
const RATCHET: &[(&str, usize)] = &[];

/// Everything that is not tidy.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in rust_files(root)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let lines = text.lines().count();
        let allowed = RATCHET.iter().find(|(path, _)| *path == name).map_or(limit(&name), |(_, lines)| *lines);
        if lines > allowed {
            problems.push(format!("{name}: {lines} lines, allowed are {allowed}"));
        }
        if !text.starts_with("//!") && !text.starts_with("#!") {
            problems.push(format!("{name}: must begin with a `//!` that says what it is"));
        }
        if name.ends_with("/mod.rs") || name.ends_with("/utils.rs") {
            problems.push(format!("{name}: modules are `foo.rs` + `foo/`, never mod.rs or utils"));
        }
        if !name.starts_with("xtask") && text.contains("#[ignore") {
            problems.push(format!("{name}: no #[ignore]; slow tests return early unless HONE_SLOW=1"));
        }
    }
    Ok(problems)
}

fn limit(name: &str) -> usize {
    if name.contains("tests") || name.contains("testing") { MAX_TEST_LINES } else { MAX_LINES }
}

/// Every source file of the workspace's crates.
pub fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target" && n != "testdata") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
