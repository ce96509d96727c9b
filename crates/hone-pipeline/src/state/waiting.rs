//! What open jobs wait for.

use super::{Control, Job, Lease, TimeMs, Work};

/// What an open job waits for, in a plain sentence: `before` open jobs are served before it, given what people asked for, who
/// has the device, and whether nothing new is begun for lack of room on the disk.
#[must_use]
pub fn waits_for(
    job: &Job,
    before: usize,
    (control, lease, disk_low): (&Control, Option<&Lease>, bool),
    now: TimeMs,
) -> String {
    match (control, lease) {
        (_, Some(lease)) if lease.work == Work::Train { job: job.id } => "it runs".to_string(),
        (Control::Stopping { .. }, _) => "the daemon to start again".to_string(),
        (Control::Paused { reason }, _) => format!("`hone resume` (paused: {reason})"),
        _ if disk_low => "room on the disk (`hone doctor`)".to_string(),
        _ if job.not_before_ms > now => format!("its next try in {} s", (job.not_before_ms - now).div_ceil(1000)),
        (_, Some(lease)) if before == 0 => match lease.work {
            Work::Evaluate { checkpoint } => format!("the evaluation of {checkpoint}"),
            Work::Train { job } => format!("the next checkpoint of {job}"),
        },
        (_, None) if before == 0 => "the daemon (`hone up`)".to_string(),
        _ => format!("{before} job{} before it", if before == 1 { "" } else { "s" }),
    }
}
