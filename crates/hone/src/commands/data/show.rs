//! `hone data show FILE`: what the trainer will see of a row: tokens, and which of them are trained.

use crate::commands::submit::{require_file, schema_of};
use crate::commands::train::model_dir;
use crate::config::Config;
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hone_data::view::{ExampleView, RowView, TokenView, view};
use hone_data::{ChatContext, Row};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Two shades each, so that neighbouring tokens can be told apart.
const TRAINED: [&str; 2] = ["\x1b[30;42m", "\x1b[30;102m"];
const REST: [&str; 2] = ["\x1b[37;100m", "\x1b[37;40m"];
const RESET: &str = "\x1b[0m";

/// Flags of `hone data show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The file.
    file: PathBuf,
    /// One row, by the line number that findings name (default: the first rows).
    #[arg(long, value_name = "N")]
    row: Option<u64>,
    /// How many of the first rows.
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "row")]
    limit: usize,
    /// Schema of its rows.
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
    /// The model folder (default: the workspace's newest checkpoint or base model).
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Data profile (default: the configured one).
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Also one line per token: id, whether it is trained, text.
    #[arg(long)]
    ids: bool,
    /// When to colour; never: trained parts stand between ⟦ and ⟧.
    #[arg(long, value_enum, default_value = "auto")]
    color: Color,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &ShowArgs) -> Result<()> {
    let mut set = ws.set.clone();
    set.extend(args.profile.iter().map(|name| ("profile.name".to_string(), name.clone())));
    let config = Config::load(&ws.root, &set)?;
    let (file, train) = (absolute(&args.file)?, &config.settings.train);
    require_file("show", &args.file)?;
    let (schema_id, _) = schema_of(&config, &file, args.schema.as_deref())?;
    let model_dir = model_dir(ws, args.model.as_deref())?;
    let ctx = ChatContext::from_dir(&model_dir, &train.profile, &train.chat_template_kwargs)?;
    let views: Vec<RowView> = read(&file, &schema_id, args)?.iter().map(|row| view(&ctx, row)).collect();
    if ws.json {
        output::json(&json!({
            "file": args.file, "schema_id": schema_id, "profile": train.profile, "template_hash": ctx.template_hash(),
            "fingerprint": ctx.fingerprint(), "max_length": train.max_length, "rows": views,
        }));
        return Ok(());
    }
    let colored = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    for row in &views {
        print(row, train.max_length, args.ids, colored);
    }
    Ok(())
}

fn read(file: &Path, schema_id: &str, args: &ShowArgs) -> Result<Vec<Row>> {
    match args.row {
        Some(line) => match hone_data::row_at(file, schema_id, line)? {
            Some(row) => Ok(vec![row]),
            None => bail!("show line {line}: no row of {} has this number", args.file.display()),
        },
        None => hone_data::rows(file, schema_id)?.take(args.limit).collect::<Result<_>>().context(
            "show the first rows (hint: `hone validate` tells all that is wrong; --row N shows a row behind it)",
        ),
    }
}

fn print(row: &RowView, max_length: usize, ids: bool, colored: bool) {
    if let Some(refused) = &row.refused {
        output::line(&format!("line {}: not trained: {} [{}]", row.line, refused.message, refused.code));
    }
    for (number, example) in row.examples.iter().enumerate() {
        let part = match row.examples.len() {
            1 => String::new(),
            all => format!(", example {} of {all}", number + 1),
        };
        let too_long = if example.tokens.len() > max_length { ", longer than max_length" } else { "" };
        let (tokens, trained) = (example.tokens.len(), example.num_trained);
        output::line(&format!("line {}{part}: {tokens} tokens, {trained} trained{too_long}", row.line));
        output::line(&if colored { colors(example) } else { brackets(example) });
        if ids {
            output::table(&["token", "id", "trained", "text"], &table(&example.tokens));
        }
        output::line("");
    }
}

/// Every token on a ground of its own: green what is trained, grey what is not.
fn colors(example: &ExampleView) -> String {
    let mut out = String::new();
    for (number, token) in example.tokens.iter().filter(|token| !token.text.is_empty()).enumerate() {
        let ground = if token.trained { TRAINED } else { REST }[number % 2];
        // A ground that is on at the end of a line fills the line.
        let text = visible(&token.text).replace('\n', &format!("⏎{RESET}\n{ground}"));
        out.push_str(&format!("{ground}{text}{RESET}"));
    }
    out
}

/// What is trained between brackets.
fn brackets(example: &ExampleView) -> String {
    let mut out = String::new();
    for tokens in example.tokens.chunk_by(|a, b| a.trained == b.trained) {
        let text: String = tokens.iter().map(|token| visible(&token.text)).collect();
        out.push_str(&if tokens[0].trained { format!("⟦{text}⟧") } else { text });
    }
    out
}

fn table(tokens: &[TokenView]) -> Vec<Vec<String>> {
    let row = |(number, token): (usize, &TokenView)| {
        let trained = if token.trained { "yes" } else { "" };
        vec![number.to_string(), token.id.to_string(), trained.to_string(), format!("{:?}", token.text)]
    };
    tokens.iter().enumerate().map(row).collect()
}

/// Without control characters, which a terminal would obey.
fn visible(text: &str) -> String {
    let escape = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().map(|c| if escape(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests;
