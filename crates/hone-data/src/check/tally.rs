//! Findings by code, with the first lines and the count.

use hone_pipeline::finding::{Finding, MAX_FINDING_LINES, Severity};
use hone_pipeline::spec::RowProblem;

/// Problems gathered so far, one finding per code. The message is that of the first line.
#[derive(Default)]
pub(super) struct Tally {
    findings: Vec<Finding>,
}

impl Tally {
    /// A problem of the whole file.
    pub fn whole_file(&mut self, problem: RowProblem) {
        self.findings.push(finding(problem, None));
    }

    /// A problem of one line. Lines come in order; a line counts once per code.
    pub fn row(&mut self, line: u64, problem: RowProblem, evidence: Option<String>) {
        let found = self.findings.iter_mut().find(|f| f.code == problem.code && f.severity == problem.severity);
        match found {
            Some(finding) if finding.lines.last() == Some(&line) => {}
            Some(finding) => {
                finding.count += 1;
                if finding.lines.len() < MAX_FINDING_LINES {
                    finding.lines.push(line);
                }
            }
            None => self.findings.push(Finding { count: 1, lines: vec![line], ..finding(problem, evidence) }),
        }
    }

    /// Adds the findings of later lines.
    pub fn append(&mut self, later: Tally) {
        for finding in later.findings {
            let same = |f: &&mut Finding| f.code == finding.code && f.severity == finding.severity;
            match self.findings.iter_mut().find(same) {
                Some(first) => {
                    first.count += finding.count;
                    let room = MAX_FINDING_LINES.saturating_sub(first.lines.len());
                    first.lines.extend(finding.lines.into_iter().take(room));
                }
                None => self.findings.push(finding),
            }
        }
    }

    /// True when a finding blocks.
    pub fn blocks(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// All findings: those that block first, then by first line. A schema whose shape fits goes into the
    /// hints of misshapen rows.
    pub fn into_findings(mut self, suggestion: Option<&str>) -> Vec<Finding> {
        self.findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), f.lines.first().copied()));
        if let Some(schema) = suggestion {
            let misshapen = |f: &&mut Finding| matches!(f.code.as_str(), "column_missing" | "column_type");
            if let Some(finding) = self.findings.iter_mut().find(misshapen) {
                finding.hint =
                    format!("the row has the shape of {schema}: name that schema if it is meant (--schema {schema})");
            }
        }
        self.findings
    }
}

fn finding(problem: RowProblem, evidence: Option<String>) -> Finding {
    let RowProblem { code, severity, message, hint } = problem;
    Finding { code: code.to_string(), severity, count: 1, lines: Vec::new(), message, hint, evidence }
}
