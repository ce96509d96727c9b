//! Control: pause, resume, skip, stop, and the queue.

use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, now_ms};
use anyhow::Result;
use clap::{Args, Subcommand};
use hone_pipeline::event::Command;
use hone_pipeline::ids::JobId;
use hone_pipeline::state::{Job, JobState, Priority};
use hone_store::QueuePage;
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
    /// How many open jobs to show.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Ended jobs below the open ones.
const SHOWN_ENDED: usize = 10;

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
pub fn resume(ws: &Workspace, args: &ReasonArgs) -> Result<()> {
    send(ws, Command::Resume { reason: args.reason.clone() })
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
        None => list(ws, args.limit),
        Some(QueueVerb::Move { id, priority }) => {
            let priority = serde_json::from_value::<Priority>(json!(priority.to_lowercase()))
                .map_err(|_| UsageError(format!("read the priority {priority:?}: allowed are high, normal, low")))?;
            send(ws, Command::MoveJob { job: job(id)?, priority })
        }
        Some(QueueVerb::Cancel { id }) => send(ws, Command::CancelJob { job: job(id)? }),
        Some(QueueVerb::Retry { id }) => send(ws, Command::RetryJob { job: job(id)? }),
    }
}

/// The open jobs in the order of service, each with what it waits for, and some that ended.
fn list(ws: &Workspace, limit: usize) -> Result<()> {
    let page = ws.store()?.queue_page(limit, if ws.json { limit } else { SHOWN_ENDED })?;
    let now = now_ms();
    if ws.json {
        let open = page.open.iter().map(|job| {
            let mut value = json!(job);
            value["waits_for"] = json!(page.waits_for(job, now));
            value
        });
        let ended = page.ended.iter().map(|job| json!(job));
        output::json(&open.chain(ended).collect::<Vec<_>>());
        return Ok(());
    }
    if page.counts.is_empty() {
        output::line("the queue is empty; `hone submit FILE` fills it");
        return Ok(());
    }
    let open = page.open.iter().map(|job| row(&page, job, page.waits_for(job, now)));
    let ended = page.ended.iter().map(|job| row(&page, job, "-".to_string()));
    let rows: Vec<Vec<String>> = open.chain(ended).collect();
    output::table(&["job", "priority", "state", "steps", "rows trained", "waits for", "data"], &rows);
    let counts: Vec<String> = page.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    output::line(&counts.join(", "));
    Ok(())
}

fn row(page: &QueuePage, job: &Job, waits_for: String) -> Vec<String> {
    let names: Vec<&str> =
        job.datasets.iter().filter_map(|id| page.datasets.get(id)).map(|d| d.file_name.as_str()).collect();
    vec![
        job.id.to_string(),
        format!("{:?}", job.priority).to_lowercase(),
        describe(&job.state),
        format!("{} of {}", job.position.job_step, total(job.position.total_steps)),
        job.position.rows_trained.to_string(),
        waits_for,
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
        JobState::Rewound { reason } => format!("rewound: {}", output::excerpt(reason, 60)),
    }
}
