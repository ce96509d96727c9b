//! The loop that owns the state of a workspace, and the effects at its rim.
//!
//! [`run`] is the daemon: it takes the owner lock, recovers what a crash left, and then receives events one
//! at a time, decides (`hone_pipeline::decide`), commits the changes, and starts the effects. The effects
//! run on threads of their own and come back as events. Everything that computes runs in child processes
//! (`worker`); this crate knows no tensors and no async runtime.
//!
//! | module | what |
//! | --- | --- |
//! | [`options`] | what the daemon is told by its caller |
//! | [`control`] | the socket through which people's commands enter |
//! | [`inbox`] | which files of `inbox/` are complete; how `hone submit` places one |
//! | [`deploy`] | bringing a checkpoint to a server, step by step |
//! | [`notify`] | what systemd is told |
//! | [`skill`] | the client of Skill API v1 |
//! | [`conform`] | holds a skill server against the contract |
//! | [`data_manager`] | asking a skill for new data when the queue runs dry |
//! | [`alerts`] | telling people what they must see |
//! | [`rescore`] | a checkpoint's kept answers, judged again |
//! | [`supervisor`] | `hone up`: role processes, restarted when they fail |
//! | [`status`] | the view `status/training_status.json` |

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

pub mod alerts;
pub mod clock;
pub mod conform;
pub mod control;
pub mod data_manager;
pub mod deploy;
pub mod inbox;
pub mod notify;
pub mod options;
pub mod rescore;
pub mod skill;
pub mod status;
pub mod supervisor;

mod background;
mod effects;
mod exam;
mod http;
mod requests;
mod run_loop;
mod sealed;
mod skill_sets;
#[cfg(test)]
mod testing;
mod worker;

pub use options::{
    Alerts, DaemonOptions, DataManagerConfig, Housekeeping, Limits, LoopConfig, SkillEndpoint, SkillOrder,
};
pub use requests::{compare_files, longest_row, preview_files, suite, suites as validation_suites};
pub use run_loop::{apply_offline, prune_offline, run};
pub use skill_sets::write_skill_sets;
