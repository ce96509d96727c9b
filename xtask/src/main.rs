//! Checks of the repository that the compiler does not make: `cargo run -p xtask -- tidy | gen-docs | budgets`.

#![expect(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "a command-line tool")]

mod budgets;
mod edges;
mod tidy;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let verb = std::env::args().nth(1).unwrap_or_default();
    let result = match verb.as_str() {
        "tidy" => tidy(),
        "gen-docs" => gen_docs(),
        "budgets" => report("test budgets", budgets::problems(&root())),
        _ => Err(anyhow::anyhow!("unknown task {verb:?}: tidy, gen-docs, budgets")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

/// Sizes, module docs, dependency edges, test budgets, fresh generated documents.
fn tidy() -> Result<()> {
    let root = root();
    let mut problems = tidy::problems(&root)?;
    problems.extend(edges::problems(&root)?);
    problems.extend(budgets::problems(&root)?);
    let page = configuration_page()?;
    if std::fs::read_to_string(root.join("docs/configuration.md")).unwrap_or_default() != page {
        problems.push("docs/configuration.md is not fresh: run `cargo run -p xtask -- gen-docs`".to_string());
    }
    report("tidy", Ok(problems))
}

fn report(what: &str, problems: Result<Vec<String>>) -> Result<()> {
    let problems = problems?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("{what}: ok");
        return Ok(());
    }
    bail!("pass {what}: {} problems", problems.len())
}

fn gen_docs() -> Result<()> {
    let path = root().join("docs/configuration.md");
    std::fs::write(&path, configuration_page()?).with_context(|| format!("write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The page as the binary prints it from its table of keys.
fn configuration_page() -> Result<String> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()))
        .args(["run", "--quiet", "-p", "hone", "--", "config", "markdown"])
        .current_dir(root())
        .output()
        .context("run hone config markdown")?;
    if !output.status.success() {
        bail!("run hone config markdown: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("read the page as UTF-8")
}
