//! Everything that is checked about one line by itself.

use super::facts::{self, Facts};
use super::overlap::{Index, RowWords, describe};
use super::tally::Tally;
use super::{add_stats, content, leak, plain, quality, secrets};
use crate::example::{Example, Row};
use crate::profile::Profile;
use crate::reader::row_id;
use crate::tokenize::{ChatContext, RowErrorKind, fit, tokenize};
use hone_pipeline::config::Overlong;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::{Level, Severity, TokenStats};
use hone_pipeline::spec::json::Json;
use hone_pipeline::spec::{Extra, Role, RowProblem, RowRule, Speaker, Spec, Text, suggest_json};
use hone_skills::syllo::Puzzle;
use std::sync::Arc;

/// What lines are held against.
pub(super) struct LineChecker {
    pub spec: &'static Spec,
    pub ctx: Option<ChatContext>,
    pub profile: Arc<dyn Profile>,
    pub level: Level,
    pub settings: ContentSettings,
    pub index: Index,
    pub max_length: usize,
    pub overlong: Overlong,
}

/// What was found in some lines.
#[derive(Default)]
pub(super) struct Outcome {
    pub rows: u64,
    pub tally: Tally,
    pub stats: TokenStats,
    pub facts: Facts,
    /// Examples that are not too long.
    pub num_kept: u64,
    /// Another schema whose shape the first misshapen row has.
    pub suggestion: Option<&'static str>,
}

impl Outcome {
    /// Adds what was found in later lines.
    pub fn append(&mut self, later: Outcome) {
        self.rows += later.rows;
        self.tally.append(later.tally);
        add_stats(&mut self.stats, &later.stats);
        self.facts.append(later.facts);
        self.num_kept += later.num_kept;
        self.suggestion = self.suggestion.or(later.suggestion);
    }
}

impl LineChecker {
    /// Checks one line that is not blank.
    pub fn check(&self, line: u64, bytes: &[u8], outcome: &mut Outcome) {
        outcome.rows += 1;
        let is_plain = || std::str::from_utf8(bytes).is_ok_and(|text| plain::is_plain(self.spec, text));
        if self.level == Level::Quick && !self.profile.may_refuse() && is_plain() {
            return;
        }
        let json = match parse(bytes) {
            Ok(json) => json,
            Err((problem, evidence)) => return outcome.tally.row(line, problem, evidence),
        };
        let problems = self.spec.problems(&json);
        let misshapen = problems.iter().any(|problem| problem.severity == Severity::Error);
        for problem in problems {
            outcome.tally.row(line, problem, None);
        }
        if misshapen {
            if outcome.suggestion.is_none() {
                outcome.suggestion = suggest_json(&json);
            }
            return;
        }
        let (texts, extras) = (self.spec.texts(&json), self.spec.extras(&json));
        let mut unfit = false;
        let mut problems = content::problems(&texts, &extras);
        let own = self.rule_problem(&json, &texts).into_iter().chain(self.profile_problem(&texts));
        problems.extend(own.map(|problem| (problem, None)));
        for (problem, evidence) in problems {
            unfit |= problem.severity == Severity::Error;
            outcome.tally.row(line, problem, evidence);
        }
        if self.level == Level::Quick || unfit {
            return;
        }
        outcome.facts.rows.push((facts::identity(&texts, &extras), line));
        outcome.facts.balance.row(&json, &texts);
        if self.level == Level::Deep {
            self.look_deeper(line, &texts, &extras, outcome);
        }
        if let Some(ctx) = &self.ctx {
            self.count_tokens(ctx, line, bytes, &json, outcome);
        }
    }

    /// Rules beyond shape, by the skill's own checker.
    fn rule_problem(&self, row: &Json<'_>, texts: &[Text<'_>]) -> Option<RowProblem> {
        let RowRule::SylloSolved = self.spec.rule?;
        let metadata = row.get("metadata").map(Json::to_value).unwrap_or_default();
        let puzzle = match Puzzle::from_metadata(&metadata) {
            Ok(puzzle) => puzzle,
            Err(reason) => {
                let message = format!("the metadata hold no puzzle: {reason}");
                let hint = "write \"words\" (ans_num, definition, answer, syllables) and \"tiles\", or use chat_sft_v1";
                return Some(RowProblem::error("puzzle_invalid", message, hint));
            }
        };
        let result = puzzle.judge(texts.last().map_or("", |text| text.text));
        (!result.solved).then(|| {
            let message = format!("the answer does not solve its puzzle: {}", result.reason);
            RowProblem::error("puzzle_unsolved", message, "correct the answer, or take the row out")
        })
    }

    /// An answer that the profile cannot decorate.
    fn profile_problem(&self, texts: &[Text<'_>]) -> Option<RowProblem> {
        let mut answers = texts.iter().filter(|text| text.speaker == Speaker::Role(Role::Assistant));
        let problem = answers.find_map(|answer| self.profile.problem(answer.text))?;
        let kind = RowErrorKind::ProfileRefuses(self.profile.name(), problem);
        Some(RowProblem::error(kind.code(), kind.to_string(), hint(&kind)))
    }

    fn look_deeper(&self, line: u64, texts: &[Text<'_>], extras: &[Extra], outcome: &mut Outcome) {
        let row = facts::row_words(texts, extras);
        let text_of = |number: u32| {
            let found = texts.iter().enumerate().find(|(i, text)| facts::number_of(*i, text) == number);
            found.map_or(String::new(), |(_, text)| text.text.to_string())
        };
        let facts = &mut outcome.facts;
        if row.prompt != 0 && row.num_answer_words > 0 {
            facts.answers.push((row.prompt ^ row.system.rotate_left(31), row.answer, line));
        }
        facts.keys.extend(facts::near_keys(line, &row));
        if !self.index.is_empty() {
            facts.overlaps.extend(self.index.find(line, &row, &text_of));
            facts.earlier.extend(self.index.earlier_rows.get(&row.whole()).map(|(file, of)| (line, *file, *of)));
        }
        if let Some(evidence) = self.leak(texts, &row) {
            facts.num_leaks += 1;
            let hint = "take the answer out of the prompt, or the row out, unless copying is the task";
            let problem = RowProblem::warning("answer_in_prompt", "the answer can be read off the prompt", hint);
            outcome.tally.row(line, problem, Some(evidence));
        }
        let mut problems = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let number = facts::number_of(index, text);
            if let Some((_, words)) = row.texts.iter().find(|(n, _)| *n == number).filter(|_| facts::is_answer(text)) {
                quality::problems(text.text, words, &mut problems);
            }
            quality::encoding_problem(text.text, &mut problems);
            secrets::problems(text.text, &mut problems);
        }
        for extra in extras {
            quality::encoding_problem(&extra.text, &mut problems);
            secrets::problems(&extra.text, &mut problems);
        }
        for (problem, evidence) in problems {
            outcome.tally.row(line, problem, evidence);
        }
    }

    /// Both places of an answer that stands in what was said before it.
    fn leak(&self, texts: &[Text<'_>], row: &RowWords) -> Option<String> {
        let text_of = |number: u32| {
            let found = texts.iter().enumerate().find(|(i, text)| facts::number_of(*i, text) == number);
            found.map(|(_, text)| text)
        };
        for (i, (number, answer)) in row.texts.iter().enumerate() {
            let Some(answer_text) = text_of(*number).filter(|text| facts::is_answer(text)) else { continue };
            for (earlier, prompt) in row.system_texts.iter().chain(&row.texts[..i]) {
                let Some(prompt_text) = text_of(*earlier).filter(|text| !facts::is_answer(text)) else { continue };
                let min_chars = self.settings.min_answer_chars;
                if let Some(range) = leak::find(prompt, prompt_text.text, answer, answer_text.text, min_chars) {
                    let whole = describe(*number, answer_text.text, answer, 0..answer.len());
                    let place = describe(*earlier, prompt_text.text, prompt, range);
                    return Some(format!("{whole} stands in {place}"));
                }
            }
        }
        None
    }

    fn count_tokens(&self, ctx: &ChatContext, line: u64, bytes: &[u8], json: &Json<'_>, outcome: &mut Outcome) {
        let example = Example::from_json(self.spec, json).expect("a row without problems has the shape of its schema");
        let rows = match tokenize(ctx, &Row { line, id: row_id(line, bytes), example }) {
            Ok(rows) => rows,
            Err(error) => {
                let problem = RowProblem::error(error.kind.code(), error.kind.to_string(), hint(&error.kind));
                return outcome.tally.row(line, problem, None);
            }
        };
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let is_overlong = longest > self.max_length;
        let stats = TokenStats {
            num_tokens: rows.iter().map(|row| row.ids.len() as u64).sum(),
            num_trained_tokens: rows.iter().map(|row| row.num_trained() as u64).sum(),
            num_overlong_rows: is_overlong.into(),
            max_row_tokens: longest as u64,
            ..TokenStats::default()
        };
        outcome.facts.lengths.push(u32::try_from(longest).unwrap_or(u32::MAX));
        add_stats(&mut outcome.stats, &stats);
        outcome.num_kept += rows.into_iter().filter_map(|row| fit(row, self.max_length, self.overlong)).count() as u64;
        if is_overlong {
            outcome.tally.row(line, self.overlong_problem(longest), None);
        }
    }

    fn overlong_problem(&self, num_tokens: usize) -> RowProblem {
        let (problem, what): (fn(&'static str, String, &'static str) -> RowProblem, _) = match self.overlong {
            Overlong::Reject => (RowProblem::error, "overlong rows reject the file"),
            Overlong::Skip => (RowProblem::warning, "it is not trained on"),
            Overlong::TruncatePrompt => (
                RowProblem::warning,
                "the beginning of its prompt is cut, or it is left out where the answer alone is too long",
            ),
        };
        let message = format!(
            "the row has {num_tokens} tokens, more than {} (max_length, and no more than the model's context); {what}",
            self.max_length
        );
        problem("row_overlong", message, "shorten the row, or raise max_length up to the model's context")
    }
}

/// A row that was checked before, as JSON.
pub(super) fn parse_row(bytes: &[u8]) -> Option<Json<'_>> {
    Json::parse(std::str::from_utf8(bytes).ok()?).ok()
}

fn parse(bytes: &[u8]) -> Result<Json<'_>, (RowProblem, Option<String>)> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let evidence = format!("byte {} of the line is 0x{:02x}", at + 1, bytes[at]);
        let problem = RowProblem::error("utf8_invalid", "the line is not valid UTF-8", "convert the file to UTF-8");
        (problem, Some(evidence))
    })?;
    Json::parse(text).map_err(|e| {
        let reason = e.to_string().replace(" at line 1", "");
        let problem = if bytes.contains(&0) {
            RowProblem::error(
                "nul_byte",
                "the line holds NUL bytes",
                "the file may be binary, UTF-16, or torn by a crash: write it again",
            )
        } else if reason.contains("recursion limit") {
            RowProblem::error("json_too_deep", "the JSON is nested deeper than 127 levels", "flatten the row")
        } else if reason.contains("control character") {
            let message = format!("the line is not JSON: {reason}");
            RowProblem::error("json_syntax", message, "escape control characters in strings (\\n, \\t, \\u0007)")
        } else {
            RowProblem::error(
                "json_syntax",
                format!("the line is not JSON: {reason}"),
                "write one JSON object per line",
            )
        };
        (problem, Some(excerpt(text)))
    })
}

/// The beginning of a line, printable.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut short: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

fn hint(kind: &RowErrorKind) -> &'static str {
    match kind {
        RowErrorKind::NoTemplate => "use a model with a chat template, or completion_v1 data",
        RowErrorKind::TemplateRefuses(_) => "change the conversation to what the template allows",
        RowErrorKind::PromptNotPrefix { .. } | RowErrorKind::NoEndToken { .. } => {
            "the model's chat template does not let answers be told from prompts; set chat_template_kwargs, or use another template"
        }
        RowErrorKind::ProfileRefuses(..) => "write each marker once, the starting one first, or neither",
        RowErrorKind::NothingTrained => "give the row an assistant message that is not empty",
        RowErrorKind::Tokenizer(_) => "look at tokenizer.json of the model",
    }
}
