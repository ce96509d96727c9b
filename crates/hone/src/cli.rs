//! The command line: verbs, flags, and which function answers each.

use crate::commands::{
    checkpoints, compare, control, curriculum, data, deploy, doctor, eval, explain, export, history, init, keys, model,
    plan, roles, selftest, show, status, submit, train,
};
use crate::exit::{self, UsageError};
use crate::workspace::{Workspace, find_root};
use crate::{chat, demo, logging};
use clap::{Args, Parser, Subcommand};
use hone_pipeline::wire::StartRefused;
use hone_skill_server::BeyondLoopback;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser, Debug)]
#[command(
    name = "hone",
    version,
    about = "A self-hosted system that keeps a language model learning.",
    long_about = None,
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Workspace (else HONE_ROOT, else the nearest folder upwards with a hone.db, else ./hone-root).
    #[arg(long, global = true, env = "HONE_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Answer with JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Set a configuration value for this command, e.g. --set epochs=3 (repeatable).
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// End when stdin ends: the supervisor holds it.
    #[arg(long, global = true, hide = true)]
    supervised: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The first thing to run: the whole loop on this machine with a tiny model made on the spot.
    Demo(demo::DemoArgs),
    /// Make a workspace.
    Init(init::InitArgs),
    /// Run all roles of this host under one supervisor.
    Up(roles::UpArgs),
    /// The training daemon in the foreground.
    Daemon,
    /// The OpenAI-compatible server in the foreground.
    Serve(roles::ListenArgs),
    /// The monitor and its dashboard in the foreground.
    Monitor(roles::ListenArgs),
    /// Skill servers.
    #[command(subcommand)]
    Skill(roles::SkillVerb),
    /// Put a file into the inbox, wait for the verdict, print it.
    Submit(submit::SubmitArgs),
    /// Both gates without queueing: a report with line numbers.
    Validate(submit::ValidateArgs),
    /// The data manager.
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Levels of the skills: how far the model is, and why.
    #[command(subcommand)]
    Curriculum(curriculum::CurriculumVerb),
    /// The queue: list, move, cancel, retry.
    Queue(control::QueueArgs),
    /// Checkpoint at the next step, free the device, wait.
    Pause(control::ReasonArgs),
    /// Go on after a pause.
    Resume(control::ReasonArgs),
    /// End the running job here; what it trained stays.
    Skip(control::ReasonArgs),
    /// Checkpoint at the next step and end the daemon.
    Stop(control::ReasonArgs),
    /// What runs now, what waits, what is served, what is wrong.
    Status,
    /// What is wrong with this host, and how to mend it.
    Doctor,
    /// One training run in the foreground, no daemon needed.
    Train(train::TrainArgs),
    /// What a job will take, before it starts: steps, and memory and time of each micro-batch.
    Plan(plan::PlanArgs),
    /// The numeric suite with PyTorch's values on this machine, and a short benchmark.
    Selftest(selftest::SelftestArgs),
    /// The ledger.
    Checkpoints(checkpoints::CheckpointsArgs),
    /// A checkpoint, or any model folder, on files; a checkpoint also on kept-back rows and its skills' questions.
    Eval(eval::EvalArgs),
    /// Which checkpoint is better, and by what evidence.
    Compare(compare::CompareArgs),
    /// Serve a checkpoint (default: the champion).
    Deploy(deploy::DeployArgs),
    /// Serve what was served before.
    Rollback(control::ReasonArgs),
    /// What was deployed where, when and why.
    Deployments,
    /// Which files, jobs, evaluations and decisions led to a checkpoint.
    Explain(explain::ExplainArgs),
    /// Training curves for other tools: TensorBoard event files, CSV.
    Export(export::ExportArgs),
    /// Train on from an earlier checkpoint; later ones stay in the ledger, abandoned.
    Rewind(history::RewindArgs),
    /// Take a data set out of the model: back to before it, later good jobs are queued again.
    Undo(history::DatasetArgs),
    /// As undo, and its rows, previews and quotations are removed.
    Forget(history::DatasetArgs),
    /// The base model and the chain of checkpoints that is trained on.
    Lineage(history::LineageArgs),
    /// Write the state (database, configuration, ledger) to one file, also while the daemon runs.
    Backup(history::FileArgs),
    /// Put the state of a backup in the place of this workspace's.
    Restore(history::FileArgs),
    /// Talk to the served model.
    Chat(chat::ChatArgs),
    /// Keys of the server: make, list, rotate, remove.
    #[command(subcommand)]
    Keys(keys::KeysVerb),
    /// Model folders.
    #[command(subcommand)]
    Model(model::ModelVerb),
    /// The configuration: effective values with their origin, or its JSON Schema.
    #[command(subcommand)]
    Config(show::ConfigVerb),
    /// A child process of the daemon (the contract is in docs/formats.md).
    #[command(hide = true)]
    Child(roles::ChildArgs),
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err("expected key=value".to_string()),
    }
}

/// Parses the arguments, runs the verb, answers with its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(folder) = crate::config::kernel_folder() {
        hone_model::device::keep_kernels_in(&folder);
    }
    if let Verb::Child(args) = &cli.verb {
        logging::start("info");
        return hone_train::run_child(&args.kind, &args.request);
    }
    let is_role = matches!(cli.verb, Verb::Up(_) | Verb::Daemon | Verb::Serve(_) | Verb::Monitor(_) | Verb::Skill(_));
    logging::start(if is_role { "info" } else { "warn" });
    exit::code_of(run(cli))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let root_flag = cli.global.root.clone();
    let workspace = Workspace {
        root: find_root(cli.global.root)?,
        set: cli.global.set,
        json: cli.global.json,
        supervised: cli.global.supervised,
    };
    let ws = &workspace;
    match cli.verb {
        Verb::Demo(args) => demo::run(root_flag, ws, &args),
        Verb::Init(args) => init::run(ws, &args),
        Verb::Up(args) => roles::up(ws, &args),
        Verb::Daemon => roles::daemon(ws),
        Verb::Serve(args) => started(roles::serve(ws, &args)),
        Verb::Monitor(args) => started(roles::monitor(ws, &args)),
        Verb::Skill(verb) => started(skill(ws, &verb)),
        Verb::Submit(args) => submit::submit(ws, &args),
        Verb::Validate(args) => submit::validate(ws, &args),
        Verb::Data(verb) => data::run(ws, &verb),
        Verb::Curriculum(verb) => curriculum::run(ws, &verb),
        Verb::Queue(args) => control::queue(ws, &args),
        Verb::Pause(args) => control::pause(ws, &args),
        Verb::Resume(args) => control::resume(ws, &args),
        Verb::Skip(args) => control::skip(ws, &args),
        Verb::Stop(args) => control::stop(ws, &args),
        Verb::Doctor => doctor::run(ws),
        Verb::Status => status::run(ws),
        Verb::Train(args) => train::run(ws, &args),
        Verb::Plan(args) => plan::run(ws, &args),
        Verb::Selftest(args) => selftest::run(ws, &args),
        Verb::Checkpoints(args) => checkpoints::run(ws, &args),
        Verb::Eval(args) => eval::run(ws, &args),
        Verb::Compare(args) => compare::run(ws, &args),
        Verb::Deploy(args) => deploy::deploy(ws, &args),
        Verb::Rollback(args) => deploy::rollback(ws, &args),
        Verb::Deployments => deploy::list(ws),
        Verb::Explain(args) => explain::explain(ws, &args),
        Verb::Export(args) => export::run(ws, &args),
        Verb::Rewind(args) => history::rewind(ws, &args),
        Verb::Undo(args) => history::undo(ws, &args),
        Verb::Forget(args) => history::forget(ws, &args),
        Verb::Lineage(args) => history::lineage(ws, &args),
        Verb::Backup(args) => history::backup(ws, &args),
        Verb::Restore(args) => history::restore(ws, &args),
        Verb::Chat(args) => chat::run(ws, &args),
        Verb::Keys(verb) => keys::run(ws, &verb),
        Verb::Model(verb) => model::run(ws, &verb),
        Verb::Config(verb) => show::run(ws, &verb),
        Verb::Child(_) => unreachable!("answered before"),
    }
}

/// A server that was asked to listen where it must not was used wrongly.
fn started(result: anyhow::Result<()>) -> anyhow::Result<()> {
    result.map_err(|error| {
        let is_refused = error.is::<StartRefused>() || error.is::<BeyondLoopback>();
        if is_refused { UsageError(format!("{error:#}")).into() } else { error }
    })
}

fn skill(ws: &Workspace, verb: &roles::SkillVerb) -> anyhow::Result<()> {
    if let roles::SkillVerb::Conform { url } = verb
        && !crate::config::is_url(url)
    {
        return Err(UsageError(format!("look at {url:?}: not a URL (expected http://HOST:PORT)")).into());
    }
    roles::skill(ws, verb)
}
