//! `hone keys`: make, list, rotate and remove the keys of the server. A running server sees a change by itself.

use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use hone_serve::{KeyLevel, list_keys, make_key, remove_key, rotate_key};
use serde_json::json;
use std::path::PathBuf;

/// `hone keys …`.
#[derive(Subcommand, Debug)]
pub enum KeysVerb {
    /// Make a key and show it, once.
    Make {
        /// Who has it.
        name: String,
        /// What it opens: `read` (answers, models, metrics) or `admin` (deployments as well).
        #[arg(long, value_enum, default_value_t = Level::Read)]
        level: Level,
    },
    /// Names and levels; keys themselves are stored nowhere.
    List,
    /// Give a key a new value and show it; the old one is refused from then on.
    Rotate {
        /// Whose.
        name: String,
    },
    /// Take a key away.
    Remove {
        /// Whose.
        name: String,
    },
}

/// What a key opens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Answers, models, metrics.
    Read,
    /// Deployments as well.
    Admin,
}

/// Where the hashes of a workspace's keys stand.
pub fn keys_file(ws: &Workspace) -> PathBuf {
    ws.root.join("keys.json")
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &KeysVerb) -> Result<()> {
    let path = keys_file(ws);
    match verb {
        KeysVerb::Make { name, level } => {
            let level = match level {
                Level::Read => KeyLevel::Read,
                Level::Admin => KeyLevel::Admin,
            };
            let is_first = list_keys(&path).context("read the keys")?.is_empty();
            // A host that only serves has no other workspace than this.
            hone_disk::create_dir(&ws.root)?;
            let key = make_key(&path, name, level).with_context(|| format!("make the key {name:?}"))?;
            show(ws, name, &key);
            if is_first && !ws.json {
                output::note(
                    "from now on the server asks everybody for a key; give the daemon an admin key in HONE_ADMIN_KEY \
                     and the monitor a read key in HONE_READ_KEY",
                );
            }
        }
        KeysVerb::Rotate { name } => {
            let key = rotate_key(&path, name).with_context(|| format!("rotate the key {name:?}"))?;
            show(ws, name, &key);
        }
        KeysVerb::Remove { name } => {
            remove_key(&path, name).with_context(|| format!("remove the key {name:?}"))?;
            let message = format!("{name} has no key any more");
            if ws.json {
                output::json(&json!({"ok": true, "message": message}));
            } else {
                output::note(&message);
            }
        }
        KeysVerb::List => {
            let keys = list_keys(&path).context("read the keys")?;
            let level = |level: KeyLevel| if level == KeyLevel::Admin { "admin" } else { "read" };
            if ws.json {
                let list = keys
                    .iter()
                    .map(|key| json!({"name": key.name, "level": level(key.level), "created_ms": key.created_ms}));
                output::json(&list.collect::<Vec<_>>());
            } else {
                let rows: Vec<Vec<String>> =
                    keys.iter().map(|key| vec![key.name.clone(), level(key.level).to_string()]).collect();
                output::table(&["name", "level"], &rows);
            }
        }
    }
    Ok(())
}

/// The key itself is the answer; the remark goes beside it.
fn show(ws: &Workspace, name: &str, key: &str) {
    if ws.json {
        output::json(&json!({"name": name, "key": key}));
    } else {
        output::line(key);
        output::note("keep it: it is shown this once");
    }
}
