//! `hone config show` and `hone config schema`.

use crate::config::{self, json_schema, markdown};
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Map, Value, json};

/// `hone config …`.
#[derive(Subcommand, Debug)]
pub enum ConfigVerb {
    /// Effective values with the origin of each.
    Show,
    /// The JSON Schema of config.json.
    Schema,
    /// The reference page (docs/configuration.md).
    #[command(hide = true)]
    Markdown,
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &ConfigVerb) -> Result<()> {
    match verb {
        ConfigVerb::Schema => output::line(&serde_json::to_string_pretty(&json_schema())?),
        ConfigVerb::Markdown => output::part(&markdown()),
        ConfigVerb::Show => {
            let (values, _) = config::load(&ws.root, &ws.set)?;
            if ws.json {
                let all: Map<String, Value> = values
                    .iter()
                    .map(|(key, value, origin)| {
                        (key.to_string(), json!({"value": value, "origin": origin.to_string()}))
                    })
                    .collect();
                output::json(&all);
            } else {
                let rows: Vec<Vec<String>> = values
                    .iter()
                    .map(|(key, value, origin)| vec![key.to_string(), value.to_string(), origin.to_string()])
                    .collect();
                output::table(&["key", "value", "origin"], &rows);
            }
        }
    }
    Ok(())
}
