//! What is known only when all rows are: statistics, duplicates, near-duplicates, overlaps, contradictions.

use super::balance::Counter;
use super::facts::{self, Facts};
use super::line::{LineChecker, Outcome, parse_row};
use super::near::{Confirm, NearDuplicate, candidates};
use super::overlap::{Hit, Index};
use super::tally::Tally;
use super::words::excerpt;
use super::{BLOCK_BYTES, limits};
use crate::reader::{Blocks, Format, Packing, ReadError};
use anyhow::{Context, Result, anyhow};
use hone_pipeline::content::{CompareFile, CompareRole};
use hone_pipeline::finding::{Finding, Level};
use hone_pipeline::spec::{self, RowProblem};
use hone_pipeline::wire::CheckRequest;
use rayon::prelude::*;

/// What files that were accepted earlier are made of.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    balance: Counter,
}

/// Reads the files that rows are compared with; only for `deep`.
pub(super) fn load(request: &CheckRequest, tally: &mut Tally, alive: &dyn Fn(&str)) -> (Index, Comparisons) {
    let mut index = Index::new(&request.content);
    let mut comparisons = Comparisons::default();
    if request.level != Level::Deep {
        return (index, comparisons);
    }
    let (mut earlier_bytes, mut is_spent) = (0, false);
    for (number, file) in (0u32..).zip(&request.compare) {
        alive("reading files to compare with");
        index.file_names.push(file.name.clone());
        if file.role == CompareRole::Earlier {
            // Older files are left out, too; what checkpoints are judged on is compared always.
            if is_spent {
                continue;
            }
            earlier_bytes += file.path.metadata().map_or(0, |info| info.len());
            if earlier_bytes > request.content.max_compare_bytes {
                let message = format!("rows were not compared with {} and older files", file.name);
                let hint = "raise validation.max_compare_bytes to compare with more";
                tally.whole_file(RowProblem::warning("compare_left_out", message, hint));
                is_spent = true;
                continue;
            }
        }
        if let Err(error) = load_file(request, number, file, &mut index, &mut comparisons) {
            let message = format!("rows cannot be compared with {}: failed to {error:#}", file.name);
            let hint = "mend that file, or take it away";
            tally.whole_file(match file.role {
                // A check never passes because it failed itself.
                CompareRole::Validation => RowProblem::error("compare_failed", message, hint),
                CompareRole::SkillEvaluation | CompareRole::Earlier => {
                    RowProblem::warning("compare_failed", message, hint)
                }
            });
        }
    }
    index.finish();
    (index, comparisons)
}

fn load_file(
    request: &CheckRequest,
    number: u32,
    file: &CompareFile,
    index: &mut Index,
    comparisons: &mut Comparisons,
) -> Result<()> {
    let spec = spec::find(&file.schema_id).ok_or_else(|| anyhow!("find the schema {:?}", file.schema_id))?;
    let format = Format::of(&file.path).map_err(|(extension, _)| anyhow!("read .{extension} files"))?;
    let read = || format!("read {}", file.path.display());
    let mut blocks = Blocks::open(&file.path, format, spec, limits(request)).with_context(read)?;
    while let Some(block) = blocks.next_block(BLOCK_BYTES).with_context(read)? {
        for (line, bytes) in block.rows() {
            let Some(json) = parse_row(bytes).filter(|json| spec.fits(json)) else { continue };
            let texts = spec.texts(&json);
            let row = facts::row_words(&texts, &spec.extras(&json));
            match file.role {
                CompareRole::Validation | CompareRole::SkillEvaluation => {
                    index.add_validation(number, line, &row, &|message| {
                        let found = texts.iter().enumerate().find(|(i, text)| facts::number_of(*i, text) == message);
                        found.map_or(String::new(), |(_, text)| text.text.to_string())
                    })
                }
                CompareRole::Earlier => {
                    index.add_earlier(number, line, &row);
                    comparisons.balance.row(&json, &texts);
                }
            }
        }
    }
    Ok(())
}

/// Findings about all rows together; fills in the statistics.
pub(super) fn finish(
    request: &CheckRequest,
    checker: &LineChecker,
    outcome: &mut Outcome,
    earlier: &Comparisons,
    tally: &mut Tally,
    alive: &dyn Fn(&str),
) -> Vec<Finding> {
    alive("comparing rows");
    let settings = &request.content;
    let rows = outcome.rows;
    let mut facts = std::mem::take(&mut outcome.facts);
    facts.finish_stats(&mut outcome.stats);
    let duplicates = facts::duplicates(&mut facts.rows);
    outcome.stats.balance = Some(facts.balance.balance(duplicates.len() as u64));
    facts.balance.problems(settings).into_iter().for_each(|problem| tally.whole_file(problem));
    let mut findings: Vec<Finding> = facts::duplicate_finding(&duplicates, rows, settings).into_iter().collect();
    if checker.level != Level::Deep {
        return findings;
    }
    facts.balance.shifts(&earlier.balance, settings).into_iter().for_each(|problem| tally.whole_file(problem));
    let hits = checker.index.without_common(std::mem::take(&mut facts.overlaps), rows);
    findings.extend(overlap_finding(&hits, rows, checker));
    findings.extend(earlier_finding(&facts, checker));
    findings.extend(facts::contradiction_finding(&facts::contradictions(&mut facts.answers)));
    if facts::severity_by_share(facts.num_leaks as usize, rows, settings.max_leak_share)
        == hone_pipeline::finding::Severity::Error
    {
        let message = format!("{} of {rows} rows hold their answer in the prompt", facts.num_leaks);
        let hint = "nothing is learned from them; raise validation.max_leak_share if copying is the task";
        tally.whole_file(RowProblem::error("answers_leaked", message, hint));
    }
    facts.keys.retain(|keys| duplicates.binary_search_by_key(&keys.line, |(line, _)| *line).is_err());
    match near_duplicates(request, checker, std::mem::take(&mut facts), alive) {
        Ok((found, not_compared)) => findings.extend(facts::near_finding(&found, not_compared, settings)),
        Err(e) => tally.whole_file(RowProblem::error(e.code(), e.to_string(), e.hint())),
    }
    findings
}

fn overlap_finding(hits: &[Hit], rows: u64, checker: &LineChecker) -> Option<Finding> {
    let lines: Vec<u64> = hits.iter().map(|hit| hit.line).collect();
    let problem = RowProblem {
        code: "overlap_validation",
        severity: facts::severity_by_share(hits.len(), rows, checker.settings.max_overlap_share),
        message: format!("{} rows hold text of a validation file or of a skill's evaluation set", hits.len()),
        hint: "take them out: a checkpoint that was trained on its examination cannot be judged".to_string(),
    };
    facts::comparison(problem, &lines, hits.iter().map(|hit| checker.index.evidence(hit)))
}

fn earlier_finding(facts: &Facts, checker: &LineChecker) -> Option<Finding> {
    let lines: Vec<u64> = facts.earlier.iter().map(|(line, ..)| *line).collect();
    let left_out = match checker.index.num_earlier_left_out {
        0 => String::new(),
        some => format!("; {some} earlier rows were not compared for lack of memory"),
    };
    let message = format!("{} rows were accepted in an earlier file already{left_out}", lines.len());
    let problem = RowProblem::warning("overlap_earlier", message, "take them out, unless they shall be trained again");
    let name = |file: u32| checker.index.file_names[file as usize].clone();
    let examples = facts.earlier.iter().map(|(line, file, of)| format!("line {line} is {} line {of}", name(*file)));
    facts::comparison(problem, &lines, examples)
}

/// The second pass: rows that look alike are read again and compared.
fn near_duplicates(
    request: &CheckRequest,
    checker: &LineChecker,
    facts: Facts,
    alive: &dyn Fn(&str),
) -> Result<(Vec<NearDuplicate>, u64), ReadError> {
    let pairs = candidates(&facts.keys);
    drop(facts);
    let mut confirm = Confirm::new(pairs, request.content.near_duplicate_similarity);
    if confirm.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let format = Format::of(&request.file).unwrap_or(Format::Lines(Packing::Plain));
    let mut blocks = Blocks::open(&request.file, format, checker.spec, limits(request))?;
    while let Some(block) = blocks.next_block(BLOCK_BYTES)? {
        alive("comparing rows that look alike");
        let wanted: Vec<(u64, &[u8])> = block.rows().filter(|(line, _)| confirm.is_named(*line)).collect();
        let read = |(line, bytes): &(u64, &[u8])| {
            let json = parse_row(bytes)?;
            let texts = checker.spec.texts(&json);
            let all = facts::all_words(&facts::row_words(&texts, &checker.spec.extras(&json)));
            let begin = texts.iter().find(|text| facts::is_prompt(text)).or(texts.first());
            Some((*line, all, begin.map_or(String::new(), |text| excerpt(text.text, (0, text.text.len() as u32)))))
        };
        let rows: Vec<_> = wanted.par_iter().filter_map(read).collect();
        rows.iter().for_each(|(line, words, begin)| confirm.row(*line, words, &|| begin.clone()));
    }
    Ok((confirm.found, confirm.num_not_compared))
}
