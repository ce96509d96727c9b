//! The edges between crates, as ARCHITECTURE.md draws them: what a crate must not know.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Allowed direct dependencies between the crates of hone.
const ALLOWED: &[(&str, &[&str])] = &[
    ("hone-pipeline", &[]),
    ("hone-skills", &[]),
    ("hone-disk", &[]),
    ("hone-model", &[]),
    ("hone-data", &["hone-pipeline", "hone-skills"]),
    ("hone-store", &["hone-pipeline", "hone-disk"]),
    ("hone-generate", &["hone-data", "hone-model"]),
    ("hone-skill-server", &["hone-skills"]),
    ("hone-daemon", &["hone-data", "hone-store", "hone-pipeline", "hone-disk"]),
    ("hone-monitor", &["hone-store", "hone-data", "hone-pipeline"]),
    ("hone-train", &["hone-generate", "hone-data", "hone-model", "hone-disk", "hone-pipeline"]),
    ("hone-serve", &["hone-generate", "hone-data", "hone-model", "hone-disk", "hone-pipeline"]),
];

/// External packages that only some crates may know, directly or through others of hone.
const CONFINED: &[(&str, &[&str])] = &[
    ("rusqlite", &["hone-store"]),
    ("tokio", &["hone-serve", "hone-skill-server", "hone-monitor", "hone"]),
    ("axum", &["hone-serve", "hone-skill-server", "hone-monitor"]),
];

/// Edges that ARCHITECTURE.md does not draw.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let edges = direct_dependencies(root)?;
    let mut problems = Vec::new();
    for (name, dependencies) in &edges {
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| n == name) else { continue };
        for dependency in dependencies.iter().filter(|d| d.starts_with("hone")) {
            if !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{name} must not depend on {dependency} (ARCHITECTURE.md, Crates)"));
            }
        }
    }
    for (package, allowed) in CONFINED {
        for (name, dependencies) in &edges {
            if dependencies.contains(*package) && !allowed.contains(&name.as_str()) {
                problems.push(format!("{name} must not depend on {package}: only {} may", allowed.join(", ")));
            }
        }
    }
    Ok(problems)
}

/// Normal (not test) dependencies of each workspace member.
fn direct_dependencies(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut edges = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default().to_string();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let normal = dependencies.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
        edges.insert(name, normal.map(str::to_string).collect());
    }
    Ok(edges)
}
