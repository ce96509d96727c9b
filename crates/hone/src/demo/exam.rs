//! Questions of the skill's `eval` split, asked through the served API and verified by the skill.

use super::stage::Stage;
use crate::client::{Client, Reply};
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use hone_daemon::skill::{Sample, SkillClient, Split, VerifySample};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The level that the demo learns.
const LEVEL: u32 = 1;
/// More than the split has, so that all of it comes.
const WHOLE_SPLIT: u64 = 2000;
/// Seed of the division into sealed, probe and validation questions.
const SEED: u64 = 7;
/// Questions that are reported.
const NUM_SEALED: u64 = 120;
/// Questions for the validation loss.
const NUM_VALIDATION: usize = 60;
/// Requests at the same time.
const CONCURRENCY: usize = 16;
/// Most tokens of an answer.
const MAX_ANSWER_TOKENS: u32 = 48;
/// Time limit of one call to the skill.
const SKILL_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer of the skill.
const SKILL_MAX_BYTES: u64 = 64 << 20;

/// The questions of the demo; no two groups share one, but `unseen` is drawn from all of them.
pub struct Exam {
    /// Reported before and after.
    pub sealed: Vec<Sample>,
    /// Decide when to stop.
    pub probe: Vec<Sample>,
    /// The validation file.
    pub validation: Vec<Sample>,
    /// Problems that occur in no training phrasing.
    pub unseen: Vec<Sample>,
}

/// The answers to a group of questions.
pub struct Score {
    replies: Vec<Reply>,
    solved: Vec<bool>,
}

/// A question that the untrained model got wrong and the trained one right.
#[derive(serde::Serialize)]
pub struct Contrast {
    /// What was asked.
    pub question: String,
    /// What the untrained model said.
    pub before: String,
    /// What the trained model said.
    pub after: String,
}

impl Score {
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        if self.solved.is_empty() {
            return 0.0;
        }
        self.solved.iter().filter(|s| **s).count() as f64 / self.solved.len() as f64
    }

    /// `83.3 % (100 of 120)`.
    pub fn percent(&self) -> String {
        let right = self.solved.iter().filter(|s| **s).count();
        format!("{:.1} % ({right} of {})", self.accuracy() * 100.0, self.solved.len())
    }

    /// The checkpoint that answered.
    pub fn checkpoint(&self) -> String {
        let stamp = self.replies.first().map_or("", |r| r.fingerprint.as_str());
        stamp.splitn(3, '-').take(2).collect::<Vec<_>>().join("-")
    }
}

impl Exam {
    /// Draws the sealed questions as the skill draws them (held-out problems at their natural share), then divides the
    /// rest of the `eval` split: problems seen in other phrasings decide when to stop and make the validation file.
    pub fn fetch(stage: &Stage) -> Result<Exam> {
        let draw = |count| skill(stage).generate(LEVEL, count, SEED, Split::Eval).context("fetch the questions");
        let sealed = distinct(draw(NUM_SEALED)?.samples, &[]);
        let others = distinct(draw(WHOLE_SPLIT)?.samples, &sealed);
        let is_unseen = |sample: &&Sample| sample.metadata["unseen_problem"] == true;
        let unseen: Vec<Sample> = sealed.iter().chain(&others).filter(is_unseen).cloned().collect();
        let mut validation: Vec<Sample> = others.iter().filter(|s| !is_unseen(s)).cloned().collect();
        ensure!(
            sealed.len() >= 100 && validation.len() >= 2 * NUM_VALIDATION,
            "divide the eval split: {} sealed questions and {} others are too few",
            sealed.len(),
            validation.len()
        );
        let probe = validation.split_off(NUM_VALIDATION);
        Ok(Exam { sealed, probe, validation, unseen })
    }

    /// The validation file of the workspace.
    pub fn write_validation(&self, ws: &Workspace) -> Result<()> {
        let mut text = String::new();
        for sample in &self.validation {
            text.push_str(&json!({"messages": sample.messages, "metadata": sample.metadata}).to_string());
            text.push('\n');
        }
        hone_disk::write_atomic(&ws.layout().validation().join("binary-1.jsonl"), text.as_bytes())
    }

    /// Asks the served model and has the skill verify the answers. All of them must come from one checkpoint.
    pub fn take(&self, stage: &Stage, questions: &[Sample]) -> Result<Score> {
        for _ in 0..3 {
            let score = ask_all(stage, questions)?;
            if score.replies.iter().all(|r| r.fingerprint == score.replies[0].fingerprint) {
                return Ok(score);
            }
        }
        anyhow::bail!("ask one checkpoint all questions: the served model changed three times meanwhile")
    }

    /// The first sealed question that only the trained model answers.
    pub fn example(&self, before: &Score, after: &Score) -> Option<Contrast> {
        let index = (0..self.sealed.len()).find(|i| !before.solved[*i] && after.solved[*i])?;
        Some(Contrast {
            question: question(&self.sealed[index]).last()?["content"].as_str()?.to_string(),
            before: before.replies[index].text.clone(),
            after: after.replies[index].text.clone(),
        })
    }
}

/// Each sample once, without those of `taken`.
fn distinct(samples: Vec<Sample>, taken: &[Sample]) -> Vec<Sample> {
    let mut kept: Vec<Sample> = Vec::new();
    for sample in samples {
        if !kept.iter().chain(taken).any(|known| known.id == sample.id) {
            kept.push(sample);
        }
    }
    kept
}

fn skill(stage: &Stage) -> SkillClient {
    SkillClient::new(&format!("http://{}", stage.ports.binary), SKILL_TIMEOUT, SKILL_MAX_BYTES)
}

/// The conversation without its answer.
fn question(sample: &Sample) -> &[Value] {
    let end = sample.messages.len().saturating_sub(1);
    &sample.messages[..end]
}

fn ask_all(stage: &Stage, questions: &[Sample]) -> Result<Score> {
    ensure!(!questions.is_empty(), "ask questions: there are none");
    let client = Client::new(&format!("http://{}", stage.ports.serve), None);
    let model = client.model()?;
    let replies: Mutex<Vec<Option<Result<Reply>>>> = Mutex::new(questions.iter().map(|_| None).collect());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENCY {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(sample) = questions.get(index) else { break };
                    let reply = client.ask(&model, &json!(question(sample)), MAX_ANSWER_TOKENS);
                    replies.lock().expect("no thread panics with the lock")[index] = Some(reply);
                }
            });
        }
    });
    let replies = replies.into_inner().expect("no thread panics with the lock");
    let replies = replies.into_iter().map(|r| r.context("ask a question")?).collect::<Result<Vec<Reply>>>()?;
    let samples: Vec<VerifySample> = questions
        .iter()
        .zip(&replies)
        .map(|(sample, reply)| VerifySample {
            id: sample.id.clone(),
            level: LEVEL,
            metadata: sample.metadata.clone(),
            response: reply.text.clone(),
        })
        .collect();
    let results = skill(stage).verify(&samples).context("verify the answers")?;
    ensure!(results.len() == samples.len(), "verify the answers: {} results for {}", results.len(), samples.len());
    let solved = results.iter().zip(&samples).map(|(result, sample)| result.id == sample.id && result.solved).collect();
    Ok(Score { replies, solved })
}
