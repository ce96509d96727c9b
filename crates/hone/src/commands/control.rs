//! Control: pause, resume, skip, stop, and the queue.

use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::{Args, Subcommand};
use hone_pipeline::event::Command;
use hone_pipeline::ids::JobId;
use hone_pipeline::state::{Job, JobState, Priority, State};
use serde_json::json;

/// `--reason`.
#[derive(Args, Debug)]
pub struct ReasonArgs {
    /// Why; kept in the event log.
    #[arg(long, default_value = "by hand")]
    pub reason: String,
}

/// `hone queue [VERB]`.
#[derive(Args, Debug)]
pub struct QueueArgs {
    #[command(subcommand)]
    verb: Option<QueueVerb>,
}

#[derive(Subcommand, Debug)]
enum QueueVerb {
    /// Change the priority of a queued job.
    Move {
        /// The job.
        id: String,
        /// high, normal or low.
        priority: String,
    },
    /// Take a queued job out.
    Cancel {
        /// The job.
        id: String,
    },
    /// Queue a failed, skipped or cancelled job again.
    Retry {
        /// The job.
        id: String,
    },
}

/// Sends the command and prints the answer.
pub fn send(ws: &Workspace, command: Command) -> Result<()> {
    let message = ws.command(command)?;
    if ws.json {
        output::json(&json!({"ok": true, "message": message}))
    } else {
        output::line(&message)
    }
    Ok(())
}

/// `hone pause`.
pub fn pause(ws: &Workspace, args: &ReasonArgs) -> Result<()> {
    send(ws, Command::Pause { reason: args.reason.clone() })
}

/// `hone resume`.
pub fn resume(ws: &Workspace) -> Result<()> {
    send(ws, Command::Resume)
}

/// `hone skip`.
pub fn skip(ws: &Workspace, args: &ReasonArgs) -> Result<()> {
    send(ws, Command::Skip { reason: args.reason.clone() })
}

/// `hone stop`.
pub fn stop(ws: &Workspace, args: &ReasonArgs) -> Result<()> {
    send(ws, Command::Stop { reason: args.reason.clone() })
}

/// `hone queue …`.
pub fn queue(ws: &Workspace, args: &QueueArgs) -> Result<()> {
    let job = |id: &str| id.parse::<JobId>().map_err(|error| UsageError(format!("read the job's id: {error}")));
    match &args.verb {
        None => list(ws),
        Some(QueueVerb::Move { id, priority }) => {
            let priority = serde_json::from_value::<Priority>(json!(priority.to_lowercase()))
                .map_err(|_| UsageError(format!("read the priority {priority:?}: allowed are high, normal, low")))?;
            send(ws, Command::MoveJob { job: job(id)?, priority })
        }
        Some(QueueVerb::Cancel { id }) => send(ws, Command::CancelJob { job: job(id)? }),
        Some(QueueVerb::Retry { id }) => send(ws, Command::RetryJob { job: job(id)? }),
    }
}

fn list(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    if ws.json {
        output::json(&state.jobs.values().collect::<Vec<_>>());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = state.jobs.values().rev().take(50).map(|job| row(&state, job)).collect();
    if rows.is_empty() {
        output::line("the queue is empty; `hone submit FILE` fills it");
        return Ok(());
    }
    output::table(&["job", "priority", "state", "steps", "rows trained", "data"], &rows);
    Ok(())
}

fn row(state: &State, job: &Job) -> Vec<String> {
    let names: Vec<&str> =
        job.datasets.iter().filter_map(|id| state.datasets.get(id)).map(|d| d.file_name.as_str()).collect();
    vec![
        job.id.to_string(),
        format!("{:?}", job.priority).to_lowercase(),
        describe(&job.state),
        format!("{} of {}", job.position.job_step, total(job.position.total_steps)),
        job.position.rows_trained.to_string(),
        names.join(", "),
    ]
}

fn total(steps: u64) -> String {
    if steps == 0 { "?".to_string() } else { steps.to_string() }
}

/// The state of a job in words.
#[must_use]
pub fn describe(state: &JobState) -> String {
    match state {
        JobState::Queued => "queued".to_string(),
        JobState::Running => "running".to_string(),
        JobState::Completed => "completed".to_string(),
        JobState::Skipped { at_row } => format!("skipped at row {at_row}"),
        JobState::Failed { reason } => format!("failed: {}", output::excerpt(reason, 60)),
        JobState::Cancelled => "cancelled".to_string(),
    }
}
