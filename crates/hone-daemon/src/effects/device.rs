//! Effects that run a child: checks, slices, evaluations.

use super::files::find;
use super::{Env, Given, Message};
use crate::exam::{self, Exam};
use crate::inbox::{Fingerprint, Sidecar};
use crate::requests;
use crate::sealed;
use crate::skill_sets::write_skill_sets;
use crate::status::{LiveUpdate, PreviewStatus};
use crate::worker::{ChildEnd, ChildHandle, ChildSpec, run_child, write_request};
use anyhow::{Context, Result, ensure};
use hone_pipeline::event::{Effect, Event, WorkerExit};
use hone_pipeline::finding::{Finding, Level, REPORT_FORMAT_VERSION, Report, SchemaOrigin, Severity, Verdict};
use hone_pipeline::ids::{CheckpointId, DatasetId, JobId, LeaseToken};
use hone_pipeline::state::{Dataset, DatasetState, Evaluation};
use hone_pipeline::wire::{Answer, WorkerMessage};
use hone_store::Layout;
use std::time::Duration;

/// Checks work under no lease.
const NO_LEASE: LeaseToken = LeaseToken(0);

/// Both gates over a taken file.
pub(super) fn check(env: &Env, given: Given, id: DatasetId, handle: &ChildHandle) {
    match run_check(env, &given, id, handle) {
        Ok(Some(event)) => env.event(event),
        // The daemon ends; the next start checks again.
        Ok(None) => {}
        Err(error) => env.again(Effect::Check { dataset: id }, &error),
    }
}

fn run_check(env: &Env, given: &Given, id: DatasetId, handle: &ChildHandle) -> Result<Option<Event>> {
    let dataset = find(given, id)?;
    let file = env.layout.dataset_file(dataset);
    let before = Fingerprint::of(&file);
    let is_accepted = dataset.state == DatasetState::Accepted;
    let sidecar = match Sidecar::read(&env.layout.dataset_meta(id)) {
        // It was read before the file was accepted, and the schema is known since then.
        Err(_) if is_accepted => Ok(Sidecar::default()),
        read => read,
    };
    let (report, provenance) = match sidecar {
        Ok(sidecar) => {
            let mut request = requests::check(&env.layout, &given.state, &given.config, dataset, &sidecar);
            if request.level == Level::Deep {
                let folder = env.layout.check_run(id).join("skills");
                request.compare.extend(write_skill_sets(&env.layout, &given.state, &given.config, &folder)?);
            }
            match run_check_child(env, given, id, handle, &request)? {
                Ok(report) => (report, sidecar.provenance),
                Err(died) if died.reason == super::DAEMON_ENDS => return Ok(None),
                Err(Died { reason, transient }) => {
                    let tries = dataset.check_tries;
                    return Ok(Some(Event::CheckFailed { dataset: id, reason, transient, tries }));
                }
            }
        }
        Err(error) => (sidecar_report(env, dataset, &error), None),
    };
    // Somebody had it open when it was renamed and writes on: what was checked is not what would be trained.
    ensure!(Fingerprint::of(&file) == before, "{} was written to while it was checked", dataset.file_name);
    let path = if is_accepted { env.layout.dataset_deep_report(id) } else { env.layout.dataset_report(id) };
    hone_disk::write_json(&path, &report)?;
    Ok(Some(Event::Checked { dataset: id, report, provenance }))
}

/// Why a check gave no report, and whether that says nothing about the file.
struct Died {
    reason: String,
    transient: bool,
}

/// The report, or why there is none.
fn run_check_child(
    env: &Env,
    given: &Given,
    id: DatasetId,
    handle: &ChildHandle,
    request: &hone_pipeline::wire::CheckRequest,
) -> Result<Result<Report, Died>> {
    let (run_dir, limits) = (env.layout.check_run(id), &given.config.limits);
    let spec = ChildSpec {
        program: env.program.clone(),
        instead: Vec::new(),
        kind: "check-job",
        request: write_request(&run_dir, request)?,
        run_dir,
        token: NO_LEASE,
        max_memory_bytes: limits.check_max_memory_bytes,
        time_limit: Some(Duration::from_millis(limits.check_max_ms)),
    };
    let mut report = None;
    let end = run_child(&spec, handle, &mut |message| {
        if let WorkerMessage::Checked(told) = message {
            report = Some(told);
        }
    })?;
    let ChildEnd { failed, killed, explanation, by_signal, .. } = end;
    let transient = by_signal && killed.is_none() && failed.is_none();
    Ok(match report {
        Some(report) if killed.is_none() => Ok(report),
        _ => Err(Died { reason: killed.or(failed).unwrap_or(explanation), transient }),
    })
}

/// A sidecar that cannot be read says nothing about the schema: the file is refused, never guessed at.
fn sidecar_report(env: &Env, dataset: &Dataset, error: &anyhow::Error) -> Report {
    let size_bytes = env.layout.dataset_file(dataset).metadata().map_or(0, |info| info.len());
    let finding = Finding {
        code: "sidecar_invalid".to_string(),
        severity: Severity::Error,
        count: 1,
        lines: Vec::new(),
        message: format!("{}.meta.json cannot be used: failed to {error:#}", dataset.file_name),
        hint: "write a JSON object such as {\"schema_id\": \"chat_sft_v1\"}, or remove the sidecar".to_string(),
        evidence: None,
    };
    Report {
        format_version: REPORT_FORMAT_VERSION,
        verdict: Verdict::Rejected,
        schema_id: String::new(),
        schema_origin: SchemaOrigin::Sidecar,
        level: Level::Quick,
        rows: 0,
        size_bytes,
        blake3: String::new(),
        findings: vec![finding],
        stats: None,
        elapsed_ms: 0,
    }
}

/// One slice of a job.
pub(super) fn slice(env: &Env, given: Given, job: JobId, token: LeaseToken, handle: &ChildHandle) {
    let mut staged = false;
    let mut run = || -> Result<ChildEnd> {
        let request = requests::train(&env.layout, &given.state, &given.config, job, token)?;
        let run_dir = request.run_dir.clone();
        let spec = worker_spec(env, "train-job", token, run_dir, &request)?;
        let spec = ChildSpec { instead: given.config.trainer_command.clone(), ..spec };
        env.send(Message::Live(LiveUpdate::Started));
        run_child(&spec, handle, &mut |message| {
            staged |= matches!(message, WorkerMessage::Staged(_));
            worker_message(env, token, message);
        })
    };
    let exit = exit_of(run());
    tell_room(env, &exit);
    if !staged {
        drop_staging(env, token);
    }
    env.event(Event::WorkerExited { token, exit });
}

/// A worker that ended badly may have found no room: the loop is told what is free before it hears of the end.
fn tell_room(env: &Env, exit: &WorkerExit) {
    if *exit != WorkerExit::Done {
        crate::run_loop::free_bytes(env.layout.root()).into_iter().for_each(|free| env.send(Message::Free(free)));
    }
}

/// A slice that told of no checkpoint may have begun to write one.
fn drop_staging(env: &Env, token: LeaseToken) {
    for folder in [Layout::checkpoint_staging(token), Layout::resume_staging(token)] {
        if let Err(error) = hone_disk::remove_tree(&env.layout.root().join(folder)) {
            tracing::warn!(%token, "a staging folder stays until the next start: failed to {error:#}");
        }
    }
}

/// The evaluation of a checkpoint: losses on suites, answers to sealed questions and to fresh ones of the skills. Where
/// there is none of them there is nothing to run.
pub(super) fn evaluation(env: &Env, given: Given, id: CheckpointId, token: LeaseToken, handle: &ChildHandle) {
    let alive = || env.event(Event::WorkerProgress { token, progress: None });
    let exams = exam::prepare(&given.state, &given.config, (id, token), &alive);
    let sealed = sealed::prepare(&env.layout, &given.state, &given.config, &alive);
    let mut results = None;
    let run = |results: &mut Option<Results>| -> Result<Option<ChildEnd>> {
        let mut request = requests::evaluate(&env.layout, &given.state, &given.config, id, token)?;
        exams.iter().for_each(|exam| tell_need(env, &given, exam, &request.model_dir));
        request.questions = [exam::questions(&exams), sealed::questions(&sealed)].concat();
        if request.suites.is_empty() && request.kept_back.is_empty() && request.questions.is_empty() {
            nothing_to_evaluate(env, &given, id, token, request.manifest_hash);
            return Ok(None);
        }
        let run_dir = request.run_dir.clone();
        let spec = worker_spec(env, "eval-job", token, run_dir, &request)?;
        env.send(Message::Live(LiveUpdate::Started));
        let mut heard = |message: WorkerMessage| match message {
            WorkerMessage::Evaluated { .. } => *results = Results::of(message, id),
            message => worker_message(env, token, message),
        };
        run_child(&spec, handle, &mut heard).map(Some)
    };
    let exit = match run(&mut results) {
        Ok(None) => WorkerExit::Done,
        Ok(Some(end)) => exit_of(Ok(end)),
        Err(error) => exit_of(Err(error)),
    };
    tell_room(env, &exit);
    if let Some(Results { mut evaluation, answers }) = results {
        keep_exams(env, exams, &answers, (id, token));
        for set in &sealed {
            alive();
            evaluation.suites.push(sealed::score(set, &answers, &given.config));
        }
        env.event(Event::Evaluated { token, evaluation });
    }
    env.event(Event::WorkerExited { token, exit });
}

/// People hear of a limit below which no right answer of a skill fits.
fn tell_need(env: &Env, given: &Given, exam: &Exam, model_dir: &std::path::Path) {
    let Exam { skill, level, .. } = exam;
    match exam::need_beyond(exam, model_dir, &given.config) {
        Ok(None) => {}
        Ok(Some(need)) => env.send(Message::Warn {
            kind: "answer_limit_low",
            subject: format!("{skill}/{level}"),
            message: format!(
                "a right answer of {skill} level {level} has {need} tokens, more than evaluation.max_answer_tokens ({}): it \
                 counts as cut; set evaluation.max_answer_tokens to {need} or more",
                given.config.limits.max_answer_tokens
            ),
        }),
        // The evaluation itself tells what is wrong with the model's folder.
        Err(error) => tracing::debug!(skill, level, "its right answers are not counted: failed to {error:#}"),
    }
}

/// What an `eval-job` ended with.
struct Results {
    evaluation: Evaluation,
    answers: Vec<Answer>,
}

impl Results {
    /// None for any other message.
    fn of(message: WorkerMessage, checkpoint: CheckpointId) -> Option<Results> {
        let WorkerMessage::Evaluated { manifest_hash, template_hash, dtype, engine, suites, answers, speed } = message
        else {
            return None;
        };
        let at_ms = crate::clock::now_ms();
        let evaluation = Evaluation {
            checkpoint,
            manifest_hash,
            template_hash,
            dtype,
            engine,
            suites,
            speed,
            at_ms,
            ..Evaluation::default()
        };
        Some(Results { evaluation, answers })
    }
}

/// Answers to fresh questions go to disk before the loop hears that their verdict is owed.
fn keep_exams(env: &Env, mut exams: Vec<Exam>, answers: &[Answer], (checkpoint, token): (CheckpointId, LeaseToken)) {
    if exams.is_empty() {
        return;
    }
    match exam::keep(&mut exams, answers, &env.layout.eval_run(checkpoint, token)) {
        Ok(()) => env.event(Event::ExamsAnswered { checkpoint, token }),
        Err(error) => tracing::warn!(%checkpoint, "the answers to its exams are lost: failed to {error:#}"),
    }
}

/// The verdicts of the skills on kept answers. A skill that does not judge now is asked again after a while.
pub(super) fn judge_exams(env: &Env, given: &Given, checkpoint: CheckpointId, token: LeaseToken) {
    let judged = Event::ExamsJudged { checkpoint, token };
    let exams = match exam::kept(&env.layout.eval_run(checkpoint, token)) {
        Ok(exams) => exams,
        Err(error) => {
            tracing::warn!(%checkpoint, "no verdict on its answers: failed to {error:#}");
            return env.event(judged);
        }
    };
    let manifest_hash = given.state.checkpoints.get(&checkpoint).map(|record| record.manifest_hash.clone());
    let manifest_hash = manifest_hash.unwrap_or_default();
    let is_configured = |exam: &&Exam| given.config.data_manager.skills.iter().any(|skill| skill.name == exam.skill);
    let mut unjudged = None;
    for exam in exams.iter().filter(is_configured) {
        match exam::score(exam, checkpoint, &manifest_hash, &given.config) {
            Ok(event) => env.event(event),
            Err(error) => unjudged = Some(error.context(format!("judge the answers to {}", exam.skill))),
        }
    }
    match unjudged {
        None => env.event(judged),
        Some(error) => env.again(Effect::JudgeExams { checkpoint, token }, &error),
    }
}

fn nothing_to_evaluate(env: &Env, given: &Given, checkpoint: CheckpointId, token: LeaseToken, manifest_hash: String) {
    let identity = given.state.lineage.as_ref().map(|lineage| lineage.identity.clone());
    let template_hash = identity.unwrap_or_default().template_hash;
    let at_ms = crate::clock::now_ms();
    let evaluation = Evaluation { checkpoint, manifest_hash, template_hash, at_ms, ..Evaluation::default() };
    env.event(Event::Evaluated { token, evaluation });
}

fn worker_spec(
    env: &Env,
    kind: &'static str,
    token: LeaseToken,
    run_dir: std::path::PathBuf,
    request: &impl serde::Serialize,
) -> Result<ChildSpec> {
    let request = write_request(&run_dir, request).context("write the request")?;
    let (program, max_memory_bytes, time_limit) = (env.program.clone(), 0, None);
    Ok(ChildSpec { program, instead: Vec::new(), kind, run_dir, request, token, max_memory_bytes, time_limit })
}

/// A child that could not be started may go better another time.
fn exit_of(end: Result<ChildEnd>) -> WorkerExit {
    match end {
        Ok(end) => end.into_exit(),
        Err(error) => WorkerExit::Crashed { reason: format!("it could not be run: failed to {error:#}") },
    }
}

/// Turns what a child says into events. Everything that it says renews its lease.
fn worker_message(env: &Env, token: LeaseToken, message: WorkerMessage) {
    let mut progress = None;
    match message {
        WorkerMessage::Staged(staged) => return env.event(Event::CheckpointStaged { token, staged }),
        // The exit tells a failure; the others come from other children.
        WorkerMessage::Failed { .. } | WorkerMessage::Checked(_) | WorkerMessage::Evaluated { .. } => return,
        WorkerMessage::Step(told) => {
            // The child's clock is not asked.
            let told = hone_pipeline::state::Progress { at_ms: crate::clock::now_ms(), ..told };
            env.send(Message::Live(LiveUpdate::Progress(told.clone())));
            progress = Some(told);
        }
        WorkerMessage::Alive { phase } => env.send(Message::Live(LiveUpdate::Phase(phase))),
        WorkerMessage::Preview { step, source, prompt, answer, expected } => {
            let preview = PreviewStatus { step, source, prompt, answer, expected };
            env.send(Message::Live(LiveUpdate::Preview(preview)));
        }
        WorkerMessage::Warning { code, message } => {
            tracing::warn!(%token, code, message, "a worker warns");
            env.send(Message::Live(LiveUpdate::Warning(message)));
        }
    }
    env.event(Event::WorkerProgress { token, progress });
}
