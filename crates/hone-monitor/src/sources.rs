//! The sources: what each one reads, how often and for how long. The JSON of each is documented in its module.

mod daemon;
mod inbox;
mod inference;
pub(crate) mod ledger;
pub(crate) mod queue;
mod serving;
mod skill_servers;
mod skills;
mod system;
mod training;
mod workspace;

use crate::MonitorOptions;
use crate::clock;
use crate::history::HistoryReader;
use crate::hub::Plugin;
use anyhow::Result;
use hone_pipeline::state::State;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
pub(crate) use workspace::{Workspace, open_store};

// A lock and no channel: the live view and the answers to people read the same files on, each at its own time.
/// The histories of jobs, shared by the live view and the answers about the past.
pub(crate) type Histories = Arc<Mutex<HistoryReader>>;

const SECOND: Duration = Duration::from_secs(1);

/// All sources of a monitor.
pub(crate) fn all(options: &MonitorOptions, workspace: &Arc<Workspace>, histories: &Histories) -> Vec<Plugin> {
    let training = {
        let (workspace, histories) = (workspace.clone(), histories.clone());
        move || training::read(&workspace, &histories, clock::now_ms())
    };
    let mut system = system::SystemReader::new(&options.root);
    let skill_servers = skill_servers::SkillServers::new(options.skills.clone());
    let mut inference = inference::InferenceReader::new(options.serve_url.clone(), options.serve_key.clone());
    vec![
        Plugin {
            name: "training_status",
            about: "What the daemon does now, the running job, its loss curve",
            critical: true,
            refresh: SECOND / 2,
            time_limit: 2 * SECOND,
            read: Box::new(training),
        },
        of_state("queue", "Open and ended jobs", workspace, |state| queue::jobs(state, clock::now_ms())),
        of_state("datasets", "Files taken from the inbox, refused ones with reasons", workspace, queue::datasets),
        of_state("checkpoints", "The ledger with evaluations and verdicts", workspace, ledger::checkpoints),
        of_state("model_comparison", "Verdicts about promotion", workspace, ledger::comparisons),
        of_state("deployments", "What is served where, since when and why", workspace, serving::deployments),
        of_state("curriculum", "The level of each skill and why it moved", workspace, skills::curriculum),
        of_state("skill_metrics", "Right answers by skill and level, base against trained", workspace, skills::metrics),
        Plugin {
            name: "inbox",
            about: "Files that wait in inbox/ before they are taken",
            critical: false,
            refresh: 2 * SECOND,
            time_limit: 2 * SECOND,
            read: Box::new({
                let inbox = workspace.layout().inbox();
                move || Ok(inbox::read(&inbox))
            }),
        },
        Plugin {
            name: "daemon",
            about: "What the daemon says is wrong: its configuration, its disk, what it could not do",
            critical: false,
            refresh: 2 * SECOND,
            time_limit: 2 * SECOND,
            read: Box::new({
                let door = options.control.clone();
                move || daemon::ask(door.as_ref())
            }),
        },
        Plugin {
            name: "skill_servers",
            about: "Whether each skill server answers",
            critical: false,
            refresh: 5 * SECOND,
            time_limit: 2 * SECOND,
            read: Box::new(move || Ok(skill_servers.read())),
        },
        Plugin {
            name: "inference",
            about: "The inference server's own words",
            critical: false,
            refresh: 2 * SECOND,
            time_limit: 2 * SECOND,
            read: Box::new(move || inference.read()),
        },
        Plugin {
            name: "system",
            about: "CPU, memory, disk and GPUs of this host",
            critical: false,
            refresh: 2 * SECOND,
            time_limit: SECOND,
            read: Box::new(move || system.read()),
        },
    ]
}

/// A source that is a view of the workspace's state.
fn of_state(name: &'static str, about: &'static str, workspace: &Arc<Workspace>, view: fn(&State) -> Value) -> Plugin {
    let workspace = workspace.clone();
    let read = move || -> Result<Value> { Ok(view(&*workspace.state()?)) };
    Plugin { name, about, critical: true, refresh: SECOND, time_limit: 2 * SECOND, read: Box::new(read) }
}

/// How far something is, as its JSON has it in the field `state`.
fn tag(state: &impl serde::Serialize) -> String {
    let json = serde_json::to_value(state).unwrap_or_default();
    json.get("state").unwrap_or(&json).as_str().unwrap_or("unknown").to_string()
}
