//! The effect that brings a checkpoint to a target.

use super::{Env, Given};
use crate::clock::now_ms;
use crate::deploy::http::Http;
use crate::deploy::local::Local;
use crate::deploy::{self, DeployError, DeployTarget, Description};
use hone_pipeline::config::Transport;
use hone_pipeline::event::Event;
use hone_pipeline::ids::DeploymentId;
use std::time::Duration;

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

fn push(env: &Env, given: &Given, id: DeploymentId, on_step: &mut dyn FnMut(&str)) -> Result<(), DeployError> {
    let Given { state, config } = given;
    let permanent = |what: &str| DeployError::Permanent(what.to_string());
    let deployment = state.deployments.get(&id).ok_or_else(|| permanent("the deployment is not in the state"))?;
    let checkpoint = state.checkpoints.get(&deployment.checkpoint);
    let checkpoint = checkpoint.ok_or_else(|| permanent("the checkpoint is not in the ledger"))?;
    let lineage = state.lineage.as_ref().ok_or_else(|| permanent("the workspace has no model"))?;
    let target = config.settings.targets.iter().find(|target| target.name == deployment.target);
    let target = target.ok_or_else(|| permanent("the target is not configured any more"))?;
    let model_dir = env.layout.checkpoint_model_dir(state, checkpoint.id);
    let model_dir = model_dir.map_err(|error| DeployError::Permanent(format!("failed to {error:#}")))?;
    let train = &config.settings.train;
    let description = Description {
        checkpoint: checkpoint.id,
        manifest_hash: &checkpoint.manifest_hash,
        model_name: &lineage.model_name,
        profile: &train.profile,
        chat_template_kwargs: &train.chat_template_kwargs,
    };
    let request = deploy::request(&model_dir, &description);
    let request = request.map_err(|error| DeployError::Permanent(format!("failed to {error:#}")))?;
    let limits = &config.limits;
    let (call, load) = (Duration::from_millis(limits.deploy_call_ms), Duration::from_millis(limits.deploy_load_ms));
    let door = Http::new(&target.url, env.admin_key.clone(), call, load);
    let target: Box<dyn DeployTarget> = match &target.transport {
        Transport::Http => Box::new(door),
        Transport::Local { serve_root } => Box::new(Local::new(door, &env.layout.root().join(serve_root))),
    };
    deploy::push(&*target, &request, &model_dir, on_step).map(drop)
}
