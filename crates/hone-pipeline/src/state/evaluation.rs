//! What checkpoints were measured to do, and what was concluded from it.

use super::TimeMs;
use crate::ids::CheckpointId;
use serde::{Deserialize, Serialize};

/// Results of one checkpoint on the suites in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its manifest, so that a result can never be taken for another's.
    pub manifest_hash: String,
    /// The chat template used, by hash.
    pub template_hash: String,
    /// How numbers were computed, e.g. `f32`; empty in results of an older hone.
    #[serde(default)]
    pub dtype: String,
    /// What computed them: version and device, e.g. `0.1.0 cpu`; empty in results of an older hone.
    #[serde(default)]
    pub engine: String,
    /// One result per suite, by suite name.
    pub suites: Vec<SuiteResult>,
    /// What it took; absent in results of an older hone. Told, never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<EvaluationSpeed>,
    /// When it ended.
    pub at_ms: TimeMs,
    /// The lease under which it was done: it tells the order of evaluations, whatever the clock said; 0 in results of an
    /// older hone.
    #[serde(default)]
    pub lease: u64,
    /// Set when it could not be done.
    #[serde(default)]
    pub error: Option<String>,
    /// Tries that crashed.
    #[serde(default)]
    pub tries: u32,
    /// With an error: not before this time it is tried again; `None` means that the record is final.
    #[serde(default)]
    pub retry_at_ms: Option<TimeMs>,
}

/// What the try that ended an evaluation took for what it computed itself; what an earlier try had kept is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationSpeed {
    /// Tokens of rows whose loss was computed.
    pub scored_tokens: u64,
    /// For these.
    pub scoring_ms: u64,
    /// Questions answered.
    pub answers: u64,
    /// Tokens of the answers.
    pub answer_tokens: u64,
    /// For these, reading the weights included.
    pub answering_ms: u64,
}

impl EvaluationSpeed {
    /// `losses 5120 tokens/s; 200 answers in 11.4 s, 140 tokens/s`; empty when nothing was computed.
    #[must_use]
    pub fn in_words(&self) -> String {
        let EvaluationSpeed { scored_tokens, scoring_ms, answers, answer_tokens, answering_ms } = *self;
        let per_second = |count: u64, ms: u64| count as f64 * 1e3 / ms.max(1) as f64;
        let losses = format!("losses {:.0} tokens/s", per_second(scored_tokens, scoring_ms));
        let seconds = answering_ms as f64 / 1e3;
        let answered =
            format!("{answers} answers in {seconds:.1} s, {:.0} tokens/s", per_second(answer_tokens, answering_ms));
        let parts = [(scored_tokens > 0).then_some(losses), (answers > 0).then_some(answered)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// What a result is a result of. Two results are compared when they differ in the checkpoint alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// BLAKE3 of the checkpoint's manifest, hex.
    pub checkpoint: String,
    /// BLAKE3 of the suite, hex.
    pub suite: String,
    /// BLAKE3 of the chat template and its variables, hex.
    pub template: String,
    /// How numbers were computed.
    pub dtype: String,
    /// What computed them.
    pub engine: String,
}

impl Fingerprint {
    /// In what, apart from the checkpoint, two results differ; `None` when they can be compared.
    #[must_use]
    pub fn difference(&self, other: &Fingerprint) -> Option<&'static str> {
        let Fingerprint { checkpoint: _, suite, template, dtype, engine } = self;
        match () {
            () if *suite != other.suite => Some("suite"),
            () if *template != other.template => Some("chat template"),
            () if *dtype != other.dtype => Some("number format"),
            () if *engine != other.engine => Some("version of the engine"),
            () => None,
        }
    }
}

impl Evaluation {
    /// The fingerprint of one of its results.
    #[must_use]
    pub fn fingerprint(&self, result: &SuiteResult) -> Fingerprint {
        Fingerprint {
            checkpoint: self.manifest_hash.clone(),
            suite: result.suite_hash.clone(),
            template: self.template_hash.clone(),
            dtype: self.dtype.clone(),
            engine: self.engine.clone(),
        }
    }

    /// The result of a suite by its name.
    #[must_use]
    pub fn result(&self, suite: &str) -> Option<&SuiteResult> {
        self.suites.iter().find(|result| result.suite == suite)
    }
}

/// Results of one checkpoint on one suite: the loss on rows with known answers, or own answers to questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SuiteResult {
    /// Name of the suite: the file's name.
    pub suite: String,
    /// BLAKE3 of the suite's bytes, hex.
    pub suite_hash: String,
    /// Rows evaluated.
    pub rows: u64,
    /// Rows left out because they exceed the context.
    pub rows_skipped: u64,
    /// Tokens that carry loss.
    pub trained_tokens: u64,
    /// Mean negative log-likelihood per trained token, in nats.
    pub mean_nll: f64,
    /// Share of trained tokens whose argmax is right.
    pub token_accuracy: f64,
    /// Per row: sum of the negative log-likelihoods and number of trained tokens; the base of paired tests.
    pub row_nll: Vec<(f64, u32)>,
    /// For a suite of questions: what became of each answer, in the order of the questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<AnswerOutcome>>,
}

/// What became of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerOutcome {
    /// Right by the skill's own checker.
    Right,
    /// Read, and wrong.
    Wrong,
    /// Not right, and nothing that the checker could read.
    Unparsable,
    /// Not right, and ended by the limit of tokens.
    Cut,
    /// Nothing was answered.
    Empty,
    /// Neither right nor wrong: it could not be generated or not be checked.
    Errored,
}

impl AnswerOutcome {
    /// What became of an answer: its text, whether the limit of tokens ended it, and what the skill's checker said,
    /// `(solved, parsed)`; `None` where it could not be generated or not be checked.
    #[must_use]
    pub fn of(text: &str, cut: bool, checked: Option<(bool, bool)>) -> AnswerOutcome {
        match checked {
            None => AnswerOutcome::Errored,
            // Right is right, also where the end was cut off.
            Some((true, _)) => AnswerOutcome::Right,
            Some(_) if text.trim().is_empty() => AnswerOutcome::Empty,
            Some(_) if cut => AnswerOutcome::Cut,
            Some((false, false)) => AnswerOutcome::Unparsable,
            Some((false, true)) => AnswerOutcome::Wrong,
        }
    }
}

/// Shares of all answers to a suite that say how far its score can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Ended by the limit of tokens.
    pub cut: f64,
    /// Nothing was answered.
    pub empty: f64,
    /// Nothing that the checker could read.
    pub unparsable: f64,
    /// Not generated or not checked.
    pub errored: f64,
}

/// Standard deviations on either side of a 95 % interval.
const Z_95: f64 = 1.959_963_985;

impl SuiteResult {
    /// How many answers ended so.
    #[must_use]
    pub fn num_answers(&self, outcome: AnswerOutcome) -> u64 {
        self.answers.iter().flatten().filter(|found| **found == outcome).count() as u64
    }

    /// Its figures in one line for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        let SuiteResult { suite, rows, mean_nll, token_accuracy, .. } = self;
        match (&self.answers, self.share_right()) {
            (None, _) => {
                format!("{suite}: loss {mean_nll:.4}, token accuracy {:.1} %", token_accuracy * 100.0)
            }
            (Some(_), Some(right)) => {
                let (low, high) = self.interval().map_or((0.0, 100.0), |(low, high)| (low * 100.0, high * 100.0));
                let shares = self.shares().map(Shares::in_words).unwrap_or_default();
                format!("{suite}: {:.1} % ({low:.1} to {high:.1}) of {rows} answers right; {shares}", right * 100.0)
            }
            (Some(_), None) => format!("{suite}: none of {rows} answers could be judged"),
        }
    }

    /// What became of answers that are neither right nor wrong, as shares of all; `None` for losses and without answers.
    #[must_use]
    pub fn shares(&self) -> Option<Shares> {
        let all = self.answers.as_ref().filter(|answers| !answers.is_empty())?.len() as f64;
        let share = |outcome| self.num_answers(outcome) as f64 / all;
        Some(Shares {
            cut: share(AnswerOutcome::Cut),
            empty: share(AnswerOutcome::Empty),
            unparsable: share(AnswerOutcome::Unparsable),
            errored: share(AnswerOutcome::Errored),
        })
    }

    /// The 95 % interval of its score: Wilson's for the share of right answers, else that of the mean loss per token over
    /// rows (by the linearised error of a ratio). `None` where there is too little to tell.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        match &self.answers {
            Some(answers) => {
                let judged = answers.len() as f64 - self.num_answers(AnswerOutcome::Errored) as f64;
                self.share_right().map(|right| wilson(right, judged))
            }
            None => self.loss_interval(),
        }
    }

    fn loss_interval(&self) -> Option<(f64, f64)> {
        let num_rows = self.row_nll.len() as f64;
        let tokens: f64 = self.row_nll.iter().map(|(_, tokens)| f64::from(*tokens)).sum();
        if num_rows < 2.0 || tokens == 0.0 {
            return None;
        }
        let mean = self.row_nll.iter().map(|(nll, _)| nll).sum::<f64>() / tokens;
        let squares: f64 = self.row_nll.iter().map(|(nll, tokens)| (nll - mean * f64::from(*tokens)).powi(2)).sum();
        let error = (squares * num_rows / (num_rows - 1.0)).sqrt() / tokens;
        Some((mean - Z_95 * error, mean + Z_95 * error))
    }

    /// The share of right answers among those that are right or not; `None` without such.
    #[must_use]
    pub fn share_right(&self) -> Option<f64> {
        let judged = self.answers.as_ref()?.len() as u64 - self.num_answers(AnswerOutcome::Errored);
        (judged > 0).then(|| self.num_answers(AnswerOutcome::Right) as f64 / judged as f64)
    }
}

impl Shares {
    /// `cut 1.0 %, empty 0.0 %, …`.
    fn in_words(self) -> String {
        let [cut, empty, unparsable, errored] =
            [self.cut, self.empty, self.unparsable, self.errored].map(|share| format!("{:.1} %", share * 100.0));
        format!("cut {cut}, empty {empty}, unparsable {unparsable}, errored {errored}")
    }
}

/// Wilson's interval of a share among so many.
fn wilson(share: f64, count: f64) -> (f64, f64) {
    let (z2, whole) = (Z_95 * Z_95, 1.0 + Z_95 * Z_95 / count);
    let middle = (share + z2 / (2.0 * count)) / whole;
    let half = Z_95 * (share * (1.0 - share) / count + z2 / (4.0 * count * count)).sqrt() / whole;
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// Which of two checkpoints is better, and by what evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Who was judged.
    pub challenger: CheckpointId,
    /// Against whom; `None` for the first champion.
    pub champion: Option<CheckpointId>,
    /// The outcome.
    pub outcome: Outcome,
    /// The sentence that decides.
    pub reason: String,
    /// When.
    pub at_ms: TimeMs,
    /// What was found on each suite; empty where nothing could be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// What this look used of the champion's error budget; `None` where nothing was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Two checkpoints on one suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Name of the suite.
    pub suite: String,
    /// What is compared.
    pub measure: Measure,
    /// Rows or questions compared.
    pub rows: u64,
    /// The challenger's loss per trained token, or its share of right answers.
    pub challenger: f64,
    /// The champion's.
    pub champion: f64,
    /// How much better the challenger is, in the unit of the measure: above zero is better for both measures.
    pub gain: f64,
    /// The 95 % interval of the gain; `None` where the rows are too few to know.
    pub interval: Option<(f64, f64)>,
    /// Answers that only the challenger has right; 0 for losses.
    #[serde(default)]
    pub gained: u64,
    /// Answers that only the champion has right; 0 for losses.
    #[serde(default)]
    pub lost: u64,
    /// How probable a gain of at least this size is for a challenger that is not better.
    pub p_value: f64,
    /// The largest `p_value` that this look takes for better.
    pub level: f64,
    /// What it says.
    pub finding: EvidenceFinding,
}

/// What a suite measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Loss per trained token, in nats.
    Loss,
    /// Share of right answers.
    RightAnswers,
}

/// What one suite says about a challenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceFinding {
    /// Surely better by more than the least gain.
    Better,
    /// Not surely better, and surely not worse by more than the margin.
    NotWorse,
    /// It may be worse by more than the margin, or not.
    CannotTell,
    /// Surely worse by more than the margin.
    Worse,
}

/// The error budget of a champion's tenure after one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The chance, over the whole tenure, that an equal or worse challenger is taken for better.
    pub total: f64,
    /// Which look this is, from 1.
    pub look: u32,
    /// What it used.
    pub spent: f64,
    /// What is left for all later ones.
    pub left: f64,
}

/// Outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The challenger becomes champion.
    Promote,
    /// It does not: worse.
    Worse,
    /// It does not: the evidence does not tell.
    CannotTell,
    /// It does not: only people promote here.
    Manual,
}
