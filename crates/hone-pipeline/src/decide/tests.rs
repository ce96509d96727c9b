//! The rules, as traces: each line of the script is an event, and below it stands what follows from it.
//!
//! In a trace `>` is the event, `!` an effect, `reply` an answer; everything else is a change. The clock moves
//! only by `wait N` (which also ticks). One hash per checkpoint: `m<number>`.

mod curriculum;
mod deep;
mod deployments;
mod evaluations;
mod files;
mod lineages;
mod memory;
mod rewinding;
mod room;
mod sharing;
mod slices;
mod stopping;

use super::{decide, recover};
use crate::config::{Settings, Target, Transport};
use crate::curriculum::{SkillEvaluation, SkillProgress};
use crate::event::{Command, Decision, Effect, Event, StagedCheckpoint, WatchOutcome, WorkerExit};
use crate::finding::{Finding, Level, Report, SchemaOrigin, Severity, Verdict};
use crate::ids::*;
use crate::state::*;
use expect_test::Expect;

/// A workspace that a script acts on.
pub(crate) struct World {
    pub state: State,
    pub settings: Settings,
    pub now: TimeMs,
}

/// Settings of the traces: round numbers, one target.
pub(super) fn settings() -> Settings {
    let transport = Transport::Http;
    let target = Target { name: "local".to_string(), url: String::new(), transport };
    Settings {
        lease_ms: 1_000,
        retry_backoff_ms: 100,
        evaluation_max_ms: 5_000,
        targets: vec![target],
        ..Settings::default()
    }
}

/// A workspace as `hone init` leaves it.
pub(super) fn fresh() -> World {
    let mut state = State::default();
    state.apply(&Change::SetLineage(Lineage {
        number: 1,
        model_name: "m".to_string(),
        base_model: "models/base".to_string(),
        identity: ModelIdentity::default(),
        base: CheckpointId(0),
        left_at: None,
    }));
    state.apply(&Change::PutCheckpoint(Checkpoint {
        id: CheckpointId(0),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: "m0".to_string(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: 0,
        ends_job: false,
        yielded: false,
        marks: Marks::default(),
    }));
    World { state, settings: settings(), now: 1_000 }
}

/// A workspace whose base model is evaluated and served: leases, jobs and deployments count on from here.
pub(crate) fn ready() -> World {
    let mut world = fresh();
    world.run("start; evaluated 0 loss 3; exit done; deployed 1; wait 1");
    world
}

/// A ready workspace that trains job 1 (one file of 80 rows) under lease 2.
pub(super) fn training() -> World {
    let mut world = ready();
    world.run("arrive a.jsonl; taken 1; checked 1 aa; filed 1");
    world
}

/// Runs `before` unseen and then shows what follows from `script`, line by line.
#[track_caller]
pub(super) fn check(mut world: World, before: &str, script: &str, expected: Expect) {
    world.run(before);
    expected.assert_eq(&world.run(script));
}

impl World {
    /// Runs the lines of a script (also separated by `;`).
    pub fn run(&mut self, script: &str) -> String {
        let mut trace = String::new();
        for line in script.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["wait", ms] = words.as_slice() {
                self.now += ms.parse::<u64>().unwrap();
            }
            let decision = match words.as_slice() {
                ["start"] => recover(&self.state, &self.settings, self.now),
                words => decide(&self.state, &self.settings, &self.event(words), self.now),
            };
            trace.push_str(&format!("> {line}\n"));
            trace.push_str(&self.commit(&decision));
        }
        trace
    }

    pub fn commit(&mut self, decision: &Decision) -> String {
        let mut trace = String::new();
        for change in &decision.changes {
            self.state.apply(change);
            if let Some(line) = show_change(change) {
                trace.push_str(&format!("  {line}\n"));
            }
        }
        for effect in &decision.effects {
            trace.push_str(&format!("  ! {}\n", show_effect(effect)));
        }
        match &decision.reply {
            Some(Ok(text)) => trace.push_str(&format!("  reply ok: {text}\n")),
            Some(Err(text)) => trace.push_str(&format!("  reply no: {text}\n")),
            None => {}
        }
        trace
    }

    /// The token in force, or that of a lease long gone.
    fn token(&self) -> LeaseToken {
        self.state.lease.as_ref().map_or(LeaseToken(999), |lease| lease.token)
    }

    fn event(&self, words: &[&str]) -> Event {
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text} is not a number"));
        let token = self.token();
        let reason = "test".to_string();
        match words {
            ["arrive", path] => {
                let priority = match path.split('/').next() {
                    Some("high") => Priority::High,
                    Some("low") => Priority::Low,
                    _ => Priority::Normal,
                };
                Event::FileArrived { inbox_path: path.to_string(), priority, schema_flag: None }
            }
            ["taken", id] => Event::FileTaken { dataset: DatasetId(number(id)), found: true },
            ["gone", id] => Event::FileTaken { dataset: DatasetId(number(id)), found: false },
            ["filed", id] => Event::Filed { dataset: DatasetId(number(id)) },
            ["checked", id, hash] => {
                Event::Checked { dataset: DatasetId(number(id)), report: report(hash, 0), provenance: None }
            }
            ["bad", id, count] => Event::Checked {
                dataset: DatasetId(number(id)),
                report: report("bad", number(count)),
                provenance: None,
            },
            ["check-died", id, how @ ..] => Event::CheckFailed {
                dataset: DatasetId(number(id)),
                reason: "out of memory".into(),
                transient: how.contains(&"from-outside"),
                tries: self.state.datasets.get(&DatasetId(number(id))).map_or(0, |dataset| dataset.check_tries),
            },
            // deep ID [NUMBER OF BAD LINES]
            ["deep", id, rest @ ..] => Event::Checked {
                dataset: DatasetId(number(id)),
                report: Report { level: Level::Deep, ..report("aa", rest.first().map_or(0, |bad| number(bad))) },
                provenance: None,
            },
            ["alive"] => Event::WorkerProgress { token, progress: None },
            ["step", step] => {
                let progress = Progress { step: number(step), ..Progress::default() };
                Event::WorkerProgress { token, progress: Some(progress) }
            }
            // staged JOB CHECKPOINT PARENT STEP ROWS [ends|yielded|TOKEN]
            ["staged", job, checkpoint, parent, step, rows, rest @ ..] => Event::CheckpointStaged {
                token: rest.iter().find_map(|word| word.parse().ok().map(LeaseToken)).unwrap_or(token),
                staged: StagedCheckpoint {
                    checkpoint: CheckpointId(number(checkpoint)),
                    parent: CheckpointId(number(parent)),
                    job: JobId(number(job)),
                    staging: "s".to_string(),
                    resume_staging: "r".to_string(),
                    manifest_hash: format!("m{checkpoint}"),
                    position: Position { job_step: number(step), rows_trained: number(rows), total_steps: 10 },
                    rows_digest: "d".to_string(),
                    train_loss: 2.0,
                    ends_job: rest.contains(&"ends"),
                    yielded: rest.contains(&"yielded"),
                },
            },
            ["published", id] => Event::CheckpointPublished { checkpoint: CheckpointId(number(id)) },
            ["publish-failed", id] => {
                Event::PublishFailed { checkpoint: CheckpointId(number(id)), reason: "bits".into() }
            }
            ["exit", "done"] => Event::WorkerExited { token, exit: WorkerExit::Done },
            ["exit", "crashed"] => {
                Event::WorkerExited { token, exit: WorkerExit::Crashed { reason: "signal 9".to_string() } }
            }
            ["exit", "out-of-memory"] => {
                Event::WorkerExited { token, exit: WorkerExit::OutOfMemory { reason: "exit code 76".to_string() } }
            }
            ["exit", "failed"] => {
                Event::WorkerExited { token, exit: WorkerExit::Failed { reason: "no row is left".to_string() } }
            }
            ["late-exit", lease] => Event::WorkerExited { token: LeaseToken(number(lease)), exit: WorkerExit::Done },
            ["evaluated", id, suites @ ..] => Event::Evaluated { token, evaluation: evaluation(number(id), suites) },
            ["deployed", id] => {
                Event::Deployed { deployment: DeploymentId(number(id)), steps: vec![("switch".to_string(), self.now)] }
            }
            ["deploy-failed", id, how] => Event::DeployFailed {
                deployment: DeploymentId(number(id)),
                reason: "connection refused".to_string(),
                transient: *how == "transient",
            },
            ["free", bytes] => Event::DiskSpace { free_bytes: number(bytes) },
            ["measured", rest @ ..] => Event::Measured {
                sizes: rest.chunks(2).map(|pair| (CheckpointId(number(pair[0])), number(pair[1]))).collect(),
            },
            ["pin", id] => Event::Command(Command::Pin { checkpoint: CheckpointId(number(id)), reason }),
            ["unpin", id] => Event::Command(Command::Unpin { checkpoint: CheckpointId(number(id)) }),
            ["lineage", path] => Event::Command(Command::NewLineage {
                model_name: "n".to_string(),
                base_model: path.to_string(),
                identity: ModelIdentity::default(),
                manifest_hash: format!("m{}", self.state.highest_number().map_or(0, |id| id.0 + 1)),
                reason,
            }),
            ["switch", lineage] => Event::Command(Command::SwitchLineage { number: number(lineage), reason }),
            ["rewind", id] => Event::Command(Command::Rewind { checkpoint: CheckpointId(number(id)), reason }),
            ["undo", id] => Event::Command(Command::Undo { dataset: DatasetId(number(id)), reason }),
            ["forget", id] => Event::Command(Command::Forget { dataset: DatasetId(number(id)), reason }),
            ["watched", id, how, reason @ ..] => {
                let reason = reason.join(" ");
                let outcome = match *how {
                    "well" => WatchOutcome::Well { note: reason },
                    "misbehaves" => WatchOutcome::Misbehaves { reason },
                    _ => WatchOutcome::Unknown { reason },
                };
                Event::Watched { deployment: DeploymentId(number(id)), outcome }
            }
            ["pause"] => Event::Command(Command::Pause { reason }),
            ["resume"] => Event::Command(Command::Resume { reason: String::new() }),
            ["skip"] => Event::Command(Command::Skip { reason }),
            ["stop"] => Event::Command(Command::Stop { reason }),
            ["move", id, "high"] => {
                Event::Command(Command::MoveJob { job: JobId(number(id)), priority: Priority::High })
            }
            ["cancel", id] => Event::Command(Command::CancelJob { job: JobId(number(id)) }),
            ["retry", id] => Event::Command(Command::RetryJob { job: JobId(number(id)) }),
            ["deploy"] => Event::Command(Command::Deploy { checkpoint: None, reason }),
            ["deploy", id] => Event::Command(Command::Deploy { checkpoint: Some(CheckpointId(number(id))), reason }),
            ["answered", id] => Event::ExamsAnswered { checkpoint: CheckpointId(number(id)), token },
            ["judged", id, lease] => {
                Event::ExamsJudged { checkpoint: CheckpointId(number(id)), token: LeaseToken(number(lease)) }
            }
            ["scored", checkpoint, level, percent] => scored(number(checkpoint), number(level), number(percent)),
            ["level", level] => {
                Event::Command(Command::SetLevel { skill: "s".to_string(), level: number(level) as u32 })
            }
            ["reset", skill] => Event::Command(Command::ResetSkill { skill: (*skill).to_string() }),
            ["rollback"] => Event::Command(Command::Rollback { reason }),
            ["wait", _] => Event::Tick,
            ["jumped", ms] => Event::TimeJumped { by_ms: number(ms) },
            _ => panic!("{words:?} is not a line of a script"),
        }
    }
}

/// A report about 80 rows; rejected where there are bad lines.
fn report(hash: &str, num_bad: u64) -> Report {
    let finding = |line| Finding {
        code: "json_syntax".to_string(),
        severity: Severity::Error,
        count: 1,
        lines: vec![line],
        message: "not JSON".to_string(),
        hint: String::new(),
        evidence: None,
    };
    Report {
        format_version: 1,
        verdict: if num_bad > 0 { Verdict::Rejected } else { Verdict::Accepted },
        schema_id: "chat_sft_v1".to_string(),
        schema_origin: SchemaOrigin::Default,
        level: Level::Quick,
        rows: 80,
        size_bytes: 1,
        blake3: hash.to_string(),
        findings: (1..=num_bad).map(finding).collect(),
        stats: None,
        elapsed_ms: 1,
    }
}

/// `loss X` is one suite of ten equal rows, `loss X suite NAME` the same under another name, nothing is none.
pub(super) fn evaluation(id: u64, words: &[&str]) -> Evaluation {
    let (loss, suite) = match words {
        [] => (None, ""),
        ["loss", loss] => (Some(loss.parse::<f64>().unwrap()), "val"),
        ["loss", loss, "suite", name] => (Some(loss.parse::<f64>().unwrap()), *name),
        _ => panic!("{words:?} are not results"),
    };
    let result = |loss: f64| SuiteResult {
        suite: suite.to_string(),
        suite_hash: format!("hash of {suite}"),
        rows: 10,
        rows_skipped: 0,
        trained_tokens: 20,
        mean_nll: loss,
        token_accuracy: 0.5,
        row_nll: vec![(2.0 * loss, 2); 10],
        answers: None,
    };
    Evaluation {
        checkpoint: CheckpointId(id),
        manifest_hash: format!("m{id}"),
        template_hash: "t".to_string(),
        suites: loss.map(result).into_iter().collect(),
        at_ms: 0,
        error: None,
        tries: 0,
        retry_at_ms: None,
        ..Evaluation::default()
    }
}

/// One line per change; counters are left out.
/// 300 answers of a checkpoint to questions of skill `s`, which has three levels.
fn scored(checkpoint: u64, level: u64, percent: u64) -> Event {
    let evaluation = SkillEvaluation {
        checkpoint: CheckpointId(checkpoint),
        version: "1".to_string(),
        level: level as u32,
        seed: checkpoint,
        questions: 300,
        solved: 3 * percent,
        ..SkillEvaluation::default()
    };
    let manifest_hash = format!("m{checkpoint}");
    Event::SkillScored { skill: "s".to_string(), total_levels: 3, manifest_hash, evaluation }
}

fn show_change(change: &Change) -> Option<String> {
    let name = |value: serde_json::Value| value["state"].as_str().or(value.as_str()).unwrap_or("?").to_string();
    let flag = |on: bool, text: &str| if on { format!(" {text}") } else { String::new() };
    Some(match change {
        Change::SetCounters(_) => return None,
        Change::SetControl(control) => format!("control {}", serde_json::to_string(control).unwrap()),
        Change::SetLineage(lineage) => format!("lineage {}", lineage.number),
        Change::SetOtherLineages { lineages } => format!("lineages {:?} stand still", lineages.keys()),
        Change::PutDataset(d) => {
            let state = match &d.state {
                DatasetState::Rejected { reasons } => format!("rejected {reasons:?}"),
                DatasetState::Duplicate { of } => format!("duplicate of {of}"),
                state => name(serde_json::to_value(state).unwrap()),
            };
            let aside = d.set_aside.as_ref().map_or(String::new(), |why| format!(" set aside ({why})"));
            let deep = match d.deep_check {
                DeepCheck::None => "",
                DeepCheck::Due => " deep check due",
                DeepCheck::Done => " deep check done",
            };
            let flags = format!("{}{}", flag(d.check_started, "check started"), flag(d.filed, "filed"));
            format!("{} {state}{flags}{deep}{aside}", d.id)
        }
        Change::PutJob(j) => {
            let state = match &j.state {
                JobState::Failed { reason } => format!("failed ({reason})"),
                JobState::Skipped { at_row } => format!("skipped at row {at_row}"),
                state => name(serde_json::to_value(state).unwrap()),
            };
            let mut line = format!("{} {state}", j.id);
            line += &flag(j.priority == Priority::High, "high");
            line += &flag(j.position.job_step > 0, &format!("at step {}", j.position.job_step));
            line += &flag(j.tries > 0, &format!("tries {} not before {}", j.tries, j.not_before_ms));
            line += &flag(j.skip_reason.is_some(), "to be skipped");
            line + &j.progress.as_ref().map_or(String::new(), |p| format!(" shows step {}", p.step))
        }
        Change::PutCheckpoint(c) => {
            let parent = c.parent.map_or(String::new(), |parent| format!(" from {parent}"));
            format!("{} {}{parent}", c.id, name(serde_json::to_value(&c.state).unwrap()))
        }
        Change::PutEvaluation(e) => {
            let retry = e.retry_at_ms.map_or("final".to_string(), |at| format!("again at {at}"));
            let error = e.error.as_ref().map_or(String::new(), |error| format!(" ({error}; {retry})"));
            format!("evaluation of {}: {} suites{error}", e.checkpoint, e.suites.len())
        }
        Change::PutJudgement(j) => format!("judgement of {}: {:?}", j.challenger, j.outcome),
        Change::SetChampion { checkpoint } => {
            format!("champion {}", checkpoint.map_or("none".into(), |c| c.to_string()))
        }
        Change::PutDeployment(d) => {
            let state = name(serde_json::to_value(&d.state).unwrap());
            let waits = flag(d.not_before_ms > 0, &format!("not before {}", d.not_before_ms));
            format!("{} {} on {} {state}{}{waits}", d.id, d.checkpoint, d.target, flag(d.in_flight, "in flight"))
        }
        Change::SetLease { lease: None } => "lease none".to_string(),
        Change::SetLease { lease: Some(l) } => {
            let work = match &l.work {
                Work::Train { job } => job.to_string(),
                Work::Evaluate { checkpoint } => format!("evaluation of {checkpoint}"),
            };
            let flags = format!("{}{}", flag(l.asked_to_yield, "asked to yield"), flag(l.delivered, "delivered"));
            format!("{} for {work} until {}{flags}", l.token, l.until_ms)
        }
        Change::SetQueueFull { full } => format!("queue full: {full}"),
        Change::SetDiskLow { low } => format!("disk low: {low}"),
        Change::SetCurriculum { skills } => {
            let one = |p: &SkillProgress| format!("{} at level {} after {}", p.skill, p.level, p.history.len());
            format!("curriculum: {}", skills.values().map(one).collect::<Vec<_>>().join(", "))
        }
        Change::SetOpenExams { exams } => {
            let one = |(checkpoint, token): (&CheckpointId, &LeaseToken)| format!("{checkpoint} of {token}");
            format!("open exams: {}", exams.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        Change::Log(entry) => format!("log {:?} {} {}: {}", entry.severity, entry.kind, entry.subject, entry.message),
    })
}

fn show_effect(effect: &Effect) -> String {
    match effect {
        Effect::TakeFile { dataset, inbox_path } => format!("take {inbox_path} as {dataset}"),
        Effect::Check { dataset } => format!("check {dataset}"),
        Effect::MoveRejected { dataset } => format!("move {dataset} to rejected"),
        Effect::DropDuplicate { dataset } => format!("drop {dataset}"),
        Effect::StartSlice { job, token } => format!("train {job} under {token}"),
        Effect::StartEval { checkpoint, token } => format!("evaluate {checkpoint} under {token}"),
        Effect::JudgeExams { checkpoint, token } => format!("judge the answers of {checkpoint} under {token}"),
        Effect::AskToYield { token } => format!("ask {token} to yield"),
        Effect::KillWorker { token, reason } => format!("kill {token}: {reason}"),
        Effect::Publish { checkpoint } => format!("publish {checkpoint}"),
        Effect::Deploy { deployment } => format!("deploy {deployment}"),
        Effect::RemovePruned => "remove what is pruned".to_string(),
        Effect::Watch { deployment } => format!("watch {deployment}"),
        Effect::Exit => "exit".to_string(),
    }
}
