//! One module per group of verbs.

pub mod checkpoints;
pub mod compare;
pub mod control;
pub mod curriculum;
pub mod data;
pub mod deploy;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod export;
pub mod history;
pub mod init;
pub mod keys;
pub mod model;
pub mod plan;
pub mod roles;
pub mod scores;
pub mod selftest;
pub mod show;
pub mod status;
pub mod submit;
pub mod train;
