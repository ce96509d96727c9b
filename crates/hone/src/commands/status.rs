//! `hone status`: one screen that answers what runs, how far, what waits, what failed, what is served.

use crate::commands::checkpoints::totals;
use crate::commands::control::describe;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use hone_pipeline::state::{Control, DatasetState, DeploymentState, Job, JobState, Progress, State, Work};
use serde_json::{Value, json};

/// How many past entries of each kind the screen shows.
const SHOWN: usize = 5;

/// Runs the verb.
pub fn run(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    let daemon = ws.daemon_pid();
    let progress = live_progress(ws);
    if ws.json {
        output::json(&as_json(ws, &state, daemon, progress.as_ref()));
        return Ok(());
    }
    header(ws, &state, daemon);
    running(&state, progress.as_ref(), daemon.is_some());
    waiting(&state);
    troubles(&state);
    served(&state);
    Ok(())
}

/// The live figures that the daemon writes for scripts; absent when nothing trains.
pub fn live_progress(ws: &Workspace) -> Option<Progress> {
    let bytes = std::fs::read(ws.layout().status().join("training_status.json")).ok()?;
    let view: Value = serde_json::from_slice(&bytes).ok()?;
    serde_json::from_value(view.get("job")?.get("progress")?.clone()).ok()
}

fn as_json(ws: &Workspace, state: &State, daemon: Option<u32>, progress: Option<&Progress>) -> Value {
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
        "root": ws.root, "daemon_pid": daemon, "control": state.control, "lease": state.lease, "progress": progress,
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
        Control::Stopping { reason } => output::line(&format!("stopping  {reason}")),
    }
}

fn running(state: &State, progress: Option<&Progress>, alive: bool) {
    let work = state.lease.as_ref().filter(|_| alive).map(|lease| &lease.work);
    match work {
        None => output::line("running   nothing"),
        Some(Work::Evaluate { checkpoint }) => output::line(&format!("running   evaluation of {checkpoint}")),
        Some(Work::Train { job }) => {
            output::line(&format!("running   {job}"));
            if let Some(p) = progress {
                let left = p.total_steps.saturating_sub(p.job_step) as f64;
                output::line(&format!(
                    "          step {} ({} of {}), loss {:.4}, lr {:.2e}, {:.0} tokens/s, {left:.0} steps left",
                    p.step, p.job_step, p.total_steps, p.loss, p.learning_rate, p.tokens_per_s
                ));
            }
        }
    }
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
        output::line(&format!("serving   {} on {}: {}", deployment.checkpoint, deployment.target, deployment.reason));
    }
    if !any {
        output::line("serving   nothing yet");
    }
    if let Some(judgement) = state.judgements.values().next_back() {
        output::line(&format!("verdict   {}: {}", judgement.challenger, judgement.reason));
    }
}
