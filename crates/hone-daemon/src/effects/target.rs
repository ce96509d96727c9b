//! The effects that bring a checkpoint to a target and look at it afterwards.

use super::{Env, Given};
use crate::clock::now_ms;
use crate::deploy::command::{Command, Programs};
use crate::deploy::http::Http;
use crate::deploy::local::Local;
use crate::deploy::program::Keeper;
use crate::deploy::rsync::Rsync;
use crate::deploy::watch::{self, Expectation, Watch};
use crate::deploy::{self, DeployError, DeployTarget, Description};
use hone_pipeline::config::{Target, Transport};
use hone_pipeline::event::{Event, WatchOutcome};
use hone_pipeline::ids::DeploymentId;
use hone_pipeline::wire::DeployRequest;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How soon a watch notices that the daemon ends.
const WATCH_POLL: Duration = Duration::from_millis(50);

pub(super) fn deploy(env: &Env, given: Given, id: DeploymentId) {
    let mut steps = Vec::new();
    let event = match push(env, &given, id, &mut |step| steps.push((step.to_string(), now_ms()))) {
        Ok(()) => Event::Deployed { deployment: id, steps },
        Err(error) => {
            let transient = matches!(error, DeployError::Transient(_));
            Event::DeployFailed { deployment: id, reason: error.to_string(), transient }
        }
    };
    env.event(event);
}

/// Looks at a target until its watch window ends; silent when the daemon ends first.
pub(super) fn watch(env: &Env, given: Given, id: DeploymentId) {
    let outcome = match look(env, &given, id) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return,
        Err(DeployError::Transient(reason) | DeployError::Permanent(reason)) => WatchOutcome::Unknown { reason },
    };
    env.event(Event::Watched { deployment: id, outcome });
}

fn look(env: &Env, given: &Given, id: DeploymentId) -> Result<Option<WatchOutcome>, DeployError> {
    let order = Order::of(env, given, id)?;
    let target = order.target(env, given);
    let limits = &given.config.limits;
    let canaries = match &limits.canary_file {
        Some(path) => {
            watch::read_canaries(&env.layout.root().join(path)).map_err(|e| DeployError::Permanent(format!("{e:#}")))?
        }
        None => Vec::new(),
    };
    let expected = Expectation {
        manifest_hash: order.request.manifest_hash.clone(),
        model_name: order.request.model_name.clone(),
        max_answer: Duration::from_millis(limits.max_answer_ms),
        max_error_share: limits.max_error_share,
        canaries,
        min_canary_share: limits.min_canary_share,
    };
    let door = watch::door_of(&order.place.url, env.admin_key.as_deref());
    let until_ms = given.state.deployments.get(&id).and_then(|deployment| deployment.watch_until_ms).unwrap_or(0);
    let mut watch = Watch::begin(&*target, &expected, door);
    loop {
        if let Some(outcome) = watch.look() {
            return Ok(Some(outcome));
        }
        if now_ms() >= until_ms && !watch.is_in_doubt() {
            return Ok(Some(watch.end()));
        }
        let next = Instant::now() + Duration::from_millis(limits.watch_interval_ms);
        while Instant::now() < next {
            if env.ending.load(Ordering::SeqCst) {
                return Ok(None);
            }
            std::thread::sleep(WATCH_POLL);
        }
    }
}

fn push(env: &Env, given: &Given, id: DeploymentId, on_step: &mut dyn FnMut(&str)) -> Result<(), DeployError> {
    let order = Order::of(env, given, id)?;
    let target = order.target(env, given);
    let goes_back = given.state.served_before(&order.place.name) == Some(order.request.checkpoint);
    if goes_back && deploy::go_back(&*target, &order.request, on_step).is_some() {
        return Ok(());
    }
    deploy::push(&*target, &order.request, &order.model_dir, on_step).map(drop)
}

/// A deployment with all that it is made of.
struct Order {
    place: Target,
    request: DeployRequest,
    model_dir: PathBuf,
}

impl Order {
    fn of(env: &Env, given: &Given, id: DeploymentId) -> Result<Order, DeployError> {
        let Given { state, config } = given;
        let permanent = |what: &str| DeployError::Permanent(what.to_string());
        let deployment = state.deployments.get(&id).ok_or_else(|| permanent("the deployment is not in the state"))?;
        let checkpoint = state.checkpoints.get(&deployment.checkpoint);
        let checkpoint = checkpoint.ok_or_else(|| permanent("the checkpoint is not in the ledger"))?;
        let lineage = state.lineage.as_ref().ok_or_else(|| permanent("the workspace has no model"))?;
        let place = config.settings.targets.iter().find(|target| target.name == deployment.target);
        let place = place.ok_or_else(|| permanent("the target is not configured any more"))?.clone();
        let model_dir = env.layout.checkpoint_model_dir(state, checkpoint.id);
        let model_dir = model_dir.map_err(|error| DeployError::Permanent(format!("failed to {error:#}")))?;
        let train = &config.settings.train;
        let description = Description {
            checkpoint: checkpoint.id,
            manifest_hash: &checkpoint.manifest_hash,
            // The servers have it from the same configuration; the lineage holds the name that it began with.
            model_name: config.model_name.as_deref().unwrap_or(&lineage.model_name),
            profile: &train.profile.name,
            chat_template_kwargs: &train.chat_template_kwargs,
        };
        let request = deploy::request(&model_dir, &description);
        let request = request.map_err(|error| DeployError::Permanent(format!("failed to {error:#}")))?;
        Ok(Order { place, request, model_dir })
    }

    fn target(&self, env: &Env, given: &Given) -> Box<dyn DeployTarget> {
        let limits = &given.config.limits;
        let (call, load) = (Duration::from_millis(limits.deploy_call_ms), Duration::from_millis(limits.deploy_load_ms));
        let url = &self.place.url;
        let door = Http::new(url, env.admin_key.clone(), call, load);
        let keeper = Keeper::new(env.layout.run_dir(), Arc::clone(&env.ending));
        match &self.place.transport {
            Transport::Http => Box::new(door),
            Transport::Local { serve_root } => Box::new(Local::new(door, &env.layout.root().join(serve_root))),
            Transport::Rsync { destination, rsh } => {
                let target = Rsync::new(door, destination, rsh.as_deref(), call.saturating_mul(10));
                Box::new(target.kept_by(keeper))
            }
            Transport::Command { stage, switch, verify, rollback } => {
                let (stage, switch, verify) = (stage.clone(), switch.clone(), verify.clone());
                let programs = Programs { stage, switch, verify, rollback: rollback.clone() };
                Box::new(Command::new(&programs, url, &self.request, &self.model_dir, load).kept_by(keeper))
            }
        }
    }
}
