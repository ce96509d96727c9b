//! `hone status`: one screen that answers what runs, how far, until when, what waits, what failed, what is served, and
//! what is wrong. The state comes from the database, what is of the moment from the daemon itself, over its socket.

#[cfg(test)]
mod tests;

use crate::commands::checkpoints::totals;
use crate::commands::control::describe;
use crate::commands::deploy::live_for;
use crate::commands::roles::same_base_model;
use crate::output;
use crate::workspace::{Workspace, now_ms};
use anyhow::Result;
use hone_daemon::status::{JobStatus, TrainingStatus};
use hone_pipeline::state::{Control, DatasetState, DeploymentState, Job, JobState, Progress, State, Work};
use serde_json::{Value, json};

/// How many past entries of each kind the screen shows.
const SHOWN: usize = 5;

/// Runs the verb.
pub fn run(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    let now = Now { pid: ws.daemon_pid(), status: ws.daemon_status() };
    // A running daemon tells it itself.
    let unusable = || ws.config().and_then(|config| same_base_model(ws, &config)).err();
    let unusable = if now.status.is_none() { unusable() } else { None };
    let wrong = wrong(&state, now.status.as_ref(), unusable.as_ref());
    if ws.json {
        output::json(&as_json(ws, &state, &now, &wrong));
        return Ok(());
    }
    header(ws, &state, now.pid);
    running(&state, &now);
    waiting(&state);
    wrong.iter().for_each(|what| output::line(&format!("wrong     {what}")));
    troubles(&state);
    served(&state);
    Ok(())
}

/// The live figures of the daemon; none when nothing trains.
pub fn live_progress(ws: &Workspace) -> Option<Progress> {
    ws.daemon_status()?.job?.progress
}

/// What the daemon says, where one runs.
struct Now {
    pid: Option<u32>,
    status: Option<TrainingStatus>,
}

impl Now {
    fn job(&self) -> Option<&JobStatus> {
        self.status.as_ref()?.job.as_ref()
    }
}

/// Everything that is wrong now, a sentence each. `unreadable` is the trouble of this command itself with the
/// configuration; a running daemon tells its own.
fn wrong(state: &State, status: Option<&TrainingStatus>, unreadable: Option<&anyhow::Error>) -> Vec<String> {
    let mut wrong = Vec::new();
    let in_one_line = |error: &str| error.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    match (status.map(|status| status.config_error.as_deref()), unreadable) {
        (Some(Some(error)), _) => {
            wrong.push(format!("the configuration of before stays in force: failed to {}", in_one_line(error)));
        }
        (None, Some(error)) => {
            wrong.push(format!("nothing can start: failed to {}", in_one_line(&format!("{error:#}"))))
        }
        _ => {}
    }
    if state.queue_full {
        wrong.push("the queue is full (queue.max_jobs): files wait in the inbox".to_string());
    }
    let Some(status) = status else { return wrong };
    if status.disk_low {
        let free = status.free_bytes.map_or("too little".to_string(), output::bytes);
        wrong.push(format!("{free} are free on the disk (limits.min_free_gb): nothing new is begun"));
    }
    if let Some(silent_ms) = status.silent_ms {
        let (silent, until) = (seconds(silent_ms), "limits.lease_sec");
        wrong.push(format!("the worker has said nothing for about {silent}; after {until} its work is taken over"));
    }
    for trouble in &status.troubles {
        let (what, error, tries) = (&trouble.what, &trouble.error, trouble.tries);
        wrong.push(format!("{what}: failed to {error} (tries: {tries}); it is tried again"));
    }
    for change in &status.config_changes {
        wrong.push(format!("the configuration changed since the job began, for the next one: {change}"));
    }
    wrong
}

fn seconds(ms: u64) -> String {
    output::duration(ms as f64 / 1_000.0)
}

fn as_json(ws: &Workspace, state: &State, now: &Now, wrong: &[String]) -> Value {
    let open: Vec<&Job> = state.jobs.values().filter(|j| j.state.is_open()).collect();
    let live: Vec<_> = state.deployments.values().filter(|d| d.state == DeploymentState::Live).collect();
    let evaluations: serde_json::Map<String, Value> = state
        .evaluations
        .iter()
        .filter_map(|(id, e)| {
            totals(e).map(|(loss, acc)| (id.to_string(), json!({"mean_nll": loss, "token_accuracy": acc})))
        })
        .collect();
    json!({
        "root": ws.root, "daemon_pid": now.pid, "control": state.control, "lease": state.lease,
        "progress": now.job().and_then(|job| job.progress.as_ref()), "eta_ms": now.job().and_then(|job| job.eta_ms), "wrong": wrong,
        "open_jobs": open, "latest_checkpoint": state.latest_checkpoint().map(|c| c.id),
        "champion": state.champion, "live": live, "evaluations": evaluations,
        "num_datasets": state.datasets.len(), "num_jobs": state.jobs.len(),
    })
}

fn header(ws: &Workspace, state: &State, daemon: Option<u32>) {
    let model = state.lineage.as_ref().map_or("?", |l| l.model_name.as_str());
    output::line(&format!("{model} in {}", ws.root.display()));
    output::line(&match daemon {
        Some(pid) => format!("daemon    runs (pid {pid})"),
        None => "daemon    does not run; `hone up` starts it".to_string(),
    });
    match &state.control {
        Control::Running => {}
        Control::Paused { reason } => output::line(&format!("paused    {reason}; `hone resume` goes on")),
        Control::Stopping { reason, .. } if daemon.is_some() => output::line(&format!("stopping  {reason}")),
        Control::Stopping { paused: Some(reason), .. } => {
            output::line(&format!("paused    when it starts again ({reason}); `hone resume` ends that"));
        }
        Control::Stopping { paused: None, .. } => {}
    }
}

fn running(state: &State, now: &Now) {
    let work = state.lease.as_ref().filter(|_| now.pid.is_some()).map(|lease| &lease.work);
    match work {
        None => output::line("running   nothing"),
        Some(Work::Evaluate { checkpoint }) => output::line(&format!("running   evaluation of {checkpoint}")),
        Some(Work::Train { job }) => output::line(&format!("running   {job}")),
    }
    if let Some(line) = now.job().and_then(how_far) {
        output::line(&format!("          {line}"));
    }
}

/// How far the running job is, how fast, and until when.
fn how_far(job: &JobStatus) -> Option<String> {
    let p = job.progress.as_ref()?;
    let left = match job.eta_ms {
        Some(eta_ms) => format!("about {} left", seconds(eta_ms)),
        None => format!("{} steps left", p.total_steps.saturating_sub(p.job_step)),
    };
    Some(format!(
        "step {} ({} of {}), loss {:.4}, lr {:.2e}, {:.0} tokens/s, {left}",
        p.step, p.job_step, p.total_steps, p.loss, p.learning_rate, p.tokens_per_s
    ))
}

fn waiting(state: &State) {
    let queued: Vec<&Job> = state.jobs.values().filter(|j| j.state == JobState::Queued).collect();
    let checking =
        state.datasets.values().filter(|d| matches!(d.state, DatasetState::Arriving | DatasetState::Checking)).count();
    output::line(&format!("waiting   {} jobs, {checking} files in the gates", queued.len()));
    for job in queued.iter().take(SHOWN) {
        let names: Vec<&str> =
            job.datasets.iter().filter_map(|id| state.datasets.get(id)).map(|d| d.file_name.as_str()).collect();
        output::line(&format!("          {} {}", job.id, names.join(", ")));
    }
}

fn troubles(state: &State) {
    let rejected = state.datasets.values().rev().filter_map(|d| match &d.state {
        DatasetState::Rejected { reasons } => Some((&d.file_name, reasons)),
        _ => None,
    });
    for (name, reasons) in rejected.take(SHOWN) {
        output::line(&format!("rejected  {name}: {}", reasons.first().map_or("", String::as_str)));
    }
    for job in state.jobs.values().rev().filter(|j| matches!(j.state, JobState::Failed { .. })).take(SHOWN) {
        output::line(&format!("failed    {}: {}", job.id, describe(&job.state)));
    }
    let failed = state.deployments.values().rev().filter_map(|d| match &d.state {
        DeploymentState::Failed { reason } => Some((d, reason)),
        _ => None,
    });
    for (deployment, reason) in failed.take(SHOWN) {
        output::line(&format!("failed    {} of {}: {reason}", deployment.id, deployment.checkpoint));
    }
}

fn served(state: &State) {
    if let Some(latest) = state.latest_checkpoint() {
        output::line(&format!("latest    {}", latest.id));
    }
    let mut any = false;
    for deployment in state.deployments.values().filter(|d| d.state == DeploymentState::Live) {
        any = true;
        let time = live_for(deployment, now_ms()).map_or(String::new(), |time| format!(" for {time}"));
        let (checkpoint, target, reason) = (deployment.checkpoint, &deployment.target, &deployment.reason);
        output::line(&format!("serving   {checkpoint} on {target}{time}: {reason}"));
    }
    if !any {
        output::line("serving   nothing yet");
    }
    if let Some(judgement) = state.judgements.values().next_back() {
        output::line(&format!("verdict   {}: {}", judgement.challenger, judgement.reason));
    }
}
