//! Every slow test declares its budget in a comment `// budget: N s`; together they stay below a limit.

use anyhow::Result;
use std::path::Path;

/// Seconds that all slow tests may take together.
const LIMIT_S: u64 = 40 * 60;

/// Slow tests without a budget, and a sum over the limit.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut total = 0;
    for file in super::tidy::rust_files(root)? {
        if file.starts_with(root.join("xtask")) {
            continue;
        }
        let text = std::fs::read_to_string(&file)?;
        let budgets: Vec<u64> = text.lines().filter_map(budget).collect();
        total += budgets.iter().sum::<u64>();
        if ["var(", "var_os("].iter().any(|call| text.contains(&format!("{call}\"HONE_SLOW\")"))) && budgets.is_empty()
        {
            let name = file.strip_prefix(root).unwrap_or(&file).display();
            problems.push(format!("{name}: reads HONE_SLOW, but no test declares `// budget: N s`"));
        }
    }
    if total > LIMIT_S {
        problems.push(format!("slow tests declare {total} s together, allowed are {LIMIT_S} s"));
    }
    Ok(problems)
}

/// Reads `// budget: N s`.
fn budget(line: &str) -> Option<u64> {
    line.trim().strip_prefix("// budget:")?.trim().strip_suffix('s')?.trim().parse().ok()
}
