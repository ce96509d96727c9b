//! The Skill API over HTTP for the skills of hone-skills.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Serves one skill until `stop` is set. Blocks; owns its runtime. `on_ready` gets the bound address
/// (useful with port 0) once requests are answered.
///
/// # Errors
/// An unknown skill, an address beyond loopback, or one that cannot be bound.
pub fn run(
    skill_name: &str,
    listen: SocketAddr,
    stop: Arc<AtomicBool>,
    on_ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let _ = (skill_name, listen, stop, on_ready);
    anyhow::bail!("not built yet")
}
