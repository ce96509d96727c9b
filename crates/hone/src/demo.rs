//! `hone demo`: the whole loop on this machine, with a tiny model made on the spot.
//!
//! It makes a workspace, starts `hone up` in it (daemon, server, monitor, both skill servers, each a process of its own,
//! on free ports), lets the data manager fetch training data over HTTP into the inbox, and watches. After each
//! deployment it asks the served model questions of the skill's `eval` split and lets the skill verify the answers.
//! Questions that decide when to stop (`probe`) and questions that are reported (`sealed`) are different ones.

mod exam;
mod stage;
#[cfg(test)]
mod tests;

use crate::commands::init::{self, Base};
use crate::commands::status::live_progress;
use crate::commands::train::figures;
use crate::exit::Refused;
use crate::output;
use crate::workspace::{Workspace, absolute, find_root};
use anyhow::{Context, Result};
use clap::Args;
use exam::{Exam, Score};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{DeploymentState, Progress, State};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use stage::Stage;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Share of sealed questions that the trained model must answer.
const TARGET: f64 = 0.80;
/// The probe must reach this before the sealed questions are asked again: the target with a margin, since the probe
/// has no problem that is in no training phrasing.
const PROBE_TARGET: f64 = 0.90;
/// Time between two looks at the state.
const POLL: Duration = Duration::from_millis(150);
/// How long the roles may take to answer after their start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Flags of `hone demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Give up after so many minutes (exit code 1).
    #[arg(long, default_value_t = 10.0)]
    max_minutes: f64,
}

/// Runs the verb.
pub fn run(root_flag: Option<PathBuf>, ws: &Workspace, args: &DemoArgs) -> Result<()> {
    let root = match root_flag {
        Some(root) => absolute(&root)?,
        None => free_root()?,
    };
    let ws = &Workspace { root, ..ws.clone() };
    let mut demo = Demo { ws, started: Instant::now(), limit: Duration::from_secs_f64(args.max_minutes * 60.0) };
    demo.run()
}

/// `./hone-demo`, or the first `./hone-demo-N` that is not taken.
fn free_root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("read the current folder")?;
    let mut root = here.join("hone-demo");
    let mut number = 2;
    while root.exists() {
        root = here.join(format!("hone-demo-{number}"));
        number += 1;
    }
    find_root(Some(root))
}

struct Demo<'a> {
    ws: &'a Workspace,
    started: Instant,
    limit: Duration,
}

impl Demo<'_> {
    fn run(&mut self) -> Result<()> {
        let ports = stage::free_ports()?;
        let made = init::create(&self.ws.root, &Base::Tiny, &stage::settings(&ports))?;
        self.say("workspace", &format!("{}: a tiny {}", self.ws.root.display(), made.description));
        let mut stage = Stage::start(self.ws, ports, START_TIMEOUT)?;
        self.say(
            "started",
            "daemon, server, monitor and both skill servers (Binary is learned here; SYLLO takes hours)",
        );
        self.say("dashboard", &format!("http://{}/", stage.ports.monitor));
        self.say("server", &format!("http://{}/v1", stage.ports.serve));
        let result = self.learn(&mut stage);
        stage.stop();
        result
    }

    /// From the first question to the last answer.
    fn learn(&self, stage: &mut Stage) -> Result<()> {
        let exam = Exam::fetch(stage)?;
        exam.write_validation(self.ws)?;
        let words = format!(
            "{} sealed questions, {} to decide when to stop, {} for the validation loss",
            exam.sealed.len(),
            exam.probe.len(),
            exam.validation.len()
        );
        self.say("questions", &words);
        stage.start_daemon(self.ws)?;
        stage.wait_until_served(self.ws, self.limit)?;
        let before = exam.take(stage, &exam.sealed)?;
        self.say("untrained", &format!("answers {} of the sealed questions", before.percent()));
        let after = self.train(stage, &exam)?;
        stage.stop_last();
        self.finish(stage, &exam, &before, &after)
    }

    /// Watches the loop until the served model has reached the target.
    fn train(&self, stage: &mut Stage, exam: &Exam) -> Result<Score> {
        let bar = progress_bar(self.ws.json);
        let mut asked = String::new();
        let mut seen = stage::Seen::default();
        while self.started.elapsed() < self.limit {
            stage.check_alive()?;
            let state = self.ws.state()?;
            for (kind, text) in seen.news(&state) {
                bar.suspend(|| self.say(kind, &text));
            }
            if let Some(progress) = live_progress(self.ws) {
                show_progress(&bar, &state, &progress);
            }
            let served = served_stamp(&state);
            if let Some(stamp) = served.filter(|s| *s != asked && !s.starts_with("checkpoint-0 ")) {
                asked = stamp;
                let probe = exam.take(stage, &exam.probe)?;
                let text = format!("{} answers {} of the probe questions", probe.checkpoint(), probe.percent());
                bar.suspend(|| self.say("probe", &text));
                if probe.accuracy() >= PROBE_TARGET {
                    let sealed = exam.take(stage, &exam.sealed)?;
                    bar.suspend(|| {
                        self.say("sealed", &format!("answers {} of the sealed questions", sealed.percent()))
                    });
                    if sealed.accuracy() >= TARGET {
                        bar.finish_and_clear();
                        return Ok(sealed);
                    }
                }
            }
            std::thread::sleep(POLL);
        }
        bar.finish_and_clear();
        self.say("gave up", &format!("the target of {:.0} % was not reached in time", TARGET * 100.0));
        Err(Refused.into())
    }

    fn finish(&self, stage: &Stage, exam: &Exam, before: &Score, after: &Score) -> Result<()> {
        let unseen = exam.take(stage, &exam.unseen)?;
        let seconds = self.started.elapsed().as_secs_f64();
        let state = self.ws.state()?;
        let steps = after.checkpoint().parse::<CheckpointId>().context("read the stamp of the answers")?.0;
        let live = state.deployments.values().find(|d| d.state == DeploymentState::Live);
        let served = live.map(|d| d.checkpoint).context("find the served checkpoint")?;
        let example = exam.example(before, after).context("find a question that only the trained model answers")?;
        self.say("unseen", &format!("of problems in no training phrasing it solves {}", unseen.percent()));
        if self.ws.json {
            output::json(&json!({
                "event": "demo_done", "accuracy_before": before.accuracy(), "accuracy_after": after.accuracy(),
                "accuracy_unseen_problems": unseen.accuracy(), "checkpoint": after.checkpoint(),
                "served_checkpoint": served.to_string(), "seconds": seconds, "steps": steps,
                "num_sealed": exam.sealed.len(), "num_unseen": exam.unseen.len(), "example": example,
            }));
            return Ok(());
        }
        output::line("");
        output::line(&format!("question            {}", output::excerpt(&example.question, 100)));
        output::line(&format!("untrained model     {}", output::excerpt(&example.before, 100)));
        output::line(&format!("{:<20}{}", after.checkpoint(), output::excerpt(&example.after, 100)));
        output::line("");
        output::line(&format!(
            "sealed accuracy {} before, {} after {steps} steps; {}",
            before.percent(),
            after.percent(),
            output::duration(seconds)
        ));
        let root = self.ws.root.display();
        output::line("where to look next:");
        output::line(&format!(
            "  hone --root {root} up          goes on with this workspace; dashboard at http://{}/",
            stage.ports.monitor
        ));
        output::line(&format!("  hone --root {root} chat        (while it is up) talks to the model"));
        output::line("  docs/skills.md              how it learns SYLLO, or a skill of yours");
        output::line(&format!("  hone --root {root} explain {}  why this checkpoint is served", served.0));
        Ok(())
    }

    fn say(&self, kind: &str, text: &str) {
        if self.ws.json {
            let seconds = (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
            output::json(&json!({"event": kind, "text": text, "seconds": seconds}));
        } else {
            output::line(&format!("{:>5.1} s  {kind:<10} {text}", self.started.elapsed().as_secs_f64()));
        }
    }
}

/// Stamp of the live deployment, unique per switch.
fn served_stamp(state: &State) -> Option<String> {
    let live = state.deployments.values().rev().find(|d| d.state == DeploymentState::Live)?;
    Some(format!("{} {}", live.checkpoint, live.id))
}

fn progress_bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("         training   {bar:24} {msg}");
    bar.set_style(style.expect("the template is constant"));
    bar
}

fn show_progress(bar: &ProgressBar, state: &State, progress: &Progress) {
    let rate = progress.tokens_per_s;
    let done = progress.job_step.max(1) as f64;
    let elapsed =
        state.jobs.values().rev().find_map(|j| j.started_ms).map_or(0, |at| progress.at_ms.saturating_sub(at));
    let left = (progress.total_steps.saturating_sub(progress.job_step)) as f64 * elapsed as f64 / 1000.0 / done;
    bar.set_length(progress.total_steps);
    bar.set_position(progress.job_step);
    let eta = if rate > 0.0 { format!("  ETA of this file {}", output::duration(left)) } else { String::new() };
    bar.set_message(format!("step {} {}{eta}", progress.step, figures(progress)));
}

/// The error about a process that the demo needs and that has ended, with the last lines of its log.
fn ended(what: &str, log: &std::path::Path) -> anyhow::Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(10)..].join("\n");
    anyhow::anyhow!("keep {what} running; its last lines:\n{tail}")
}
