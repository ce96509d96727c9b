//! Starting and stopping: three threads, one runtime, and who waits for whom.
//!
//! ```text
//! handlers (tokio) ──► prepare thread        prompts to token ids
//!                 ├──► engine thread ──► events of each request, straight to its handler
//!                 └──► door thread ──► engine thread (switch)
//! ```
//!
//! All channels are bounded and each thread ends when its last sender is gone, so stopping is: stop listening, let
//! handlers end, drop what they share, join the threads.

use crate::access::Access;
use crate::app::App;
use crate::connection::Connections;
use crate::door::files::Files;
use crate::door::{DOOR_QUEUE, Door, DoorOptions, DoorOrder, DoorView};
use crate::engine_thread::{self, ORDER_QUEUE};
use crate::keys::KeySet;
use crate::metrics::Metrics;
use crate::openai::request::Limits;
use crate::options::ServeOptions;
use crate::{prepare, routes};
use anyhow::{Context, Result, anyhow, ensure};
use hone_generate::EngineOptions;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{info, warn};

/// How often the stop flag and the threads are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// How long blocking disk work may go on after everything else has ended.
const RUNTIME_STOP: Duration = Duration::from_secs(2);

/// Serves until `stop` is set, then lets running requests end (at most [`ServeOptions::drain_ms`]) and returns.
///
/// `on_ready` is called once with the bound address, as soon as requests are answered; the last served
/// deployment may still be loading then (`/ready` says so).
///
/// # Errors
/// An address that cannot be bound, a public address without keys, a serve root that cannot be used, a thread of the
/// server that ended.
pub fn run(options: ServeOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let keys = KeySet::new(&options.keys, options.keys_file.clone()).context("read the keys")?;
    let access = Access::new(keys, options.listen)?;
    ensure!(options.slots > 0, "slots must be at least 1");
    ensure!(options.max_choices > 0, "max_choices must be at least 1");
    let drain = Duration::from_millis(options.drain_ms);
    let stall_limit = Duration::from_millis(options.stall_timeout_ms);
    let listen = options.listen;
    let (app, threads) = start_threads(options, access)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hone-http")
        .enable_all()
        .build()
        .context("start the HTTP runtime")?;
    let served = runtime.block_on(serve(app, (listen, stall_limit), &stop, &threads, drain, on_ready));
    // Handlers that are still there hold ends of channels; without them the threads end.
    runtime.shutdown_timeout(RUNTIME_STOP);
    for thread in threads {
        let name = thread.thread().name().unwrap_or("thread").to_string();
        if thread.join().is_err() {
            return Err(anyhow!("{name} panicked; its message is in the log above"));
        }
    }
    served
}

fn start_threads(options: ServeOptions, access: Access) -> Result<(App, Vec<JoinHandle<()>>)> {
    let places = options.slots + options.max_queue;
    let limits =
        Limits { max_choices: options.max_choices.min(places), default_max_tokens: options.default_max_tokens };
    let files = Files::open(&options.root).context("open the serve root")?;
    let blobs = files.blobs().clone();
    let metrics = Arc::new(Metrics::default());

    let (prepare_sender, prepare_orders) = mpsc::channel(places);
    let (engine_sender, engine_orders) = mpsc::channel(ORDER_QUEUE);
    let (door_sender, door_orders) = mpsc::channel(DOOR_QUEUE);
    let (serving_sender, serving) = watch::channel(None);
    let (view_sender, view) = watch::channel(DoorView::default());

    let door_options = DoorOptions {
        engine: EngineOptions {
            device: options.device,
            threads: options.threads,
            weights: options.weights,
            slots: options.slots,
            max_context: options.max_context,
            max_waiting: places,
            start_together: 1,
            cache_bytes: options.cache_bytes,
            reuse_prefixes: true,
        },
        model_name: options.model_name.clone(),
        keep_deployments: options.keep_deployments,
        max_memory_bytes: options.max_memory_bytes,
    };
    let door = Door::open(door_options, files, engine_sender.clone(), serving.clone(), view_sender)?;
    let (model_name, engine_metrics) = (options.model_name.clone(), metrics.clone());
    // Held weakly: the door ends when its last asker is gone, and holds an end of the engine's channel itself.
    let faults = door_sender.downgrade();
    let mut on_fault = move || faults.upgrade().is_none_or(|door| door.try_send(DoorOrder::Reload).is_ok());
    let threads = vec![
        spawn("hone-prepare", move || prepare::run(prepare_orders, &model_name, &limits))?,
        spawn("hone-engine", move || {
            engine_thread::run(engine_orders, serving_sender, engine_metrics, &mut on_fault);
        })?,
        spawn("hone-door", move || door.run(door_orders))?,
    ];
    let app = App {
        model_name: options.model_name,
        max_body_bytes: options.max_body_bytes,
        max_blob_bytes: options.max_blob_bytes,
        min_free_bytes: options.min_free_bytes,
        request_timeout: (options.request_timeout_ms > 0).then(|| Duration::from_millis(options.request_timeout_ms)),
        access,
        metrics,
        places: Arc::new(Semaphore::new(places)),
        prepare: prepare_sender,
        engine: engine_sender,
        door: door_sender,
        serving,
        view,
        blobs,
    };
    Ok((app, threads))
}

async fn serve(
    app: App,
    (listen, stall_limit): (SocketAddr, Duration),
    stop: &AtomicBool,
    threads: &[JoinHandle<()>],
    drain: Duration,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("read the bound address")?;
    let (stop_sender, stop_listening) = oneshot::channel::<()>();
    let router = routes::router(Arc::new(app));
    let serving = axum::serve(Connections::of(listener, stall_limit), router).with_graceful_shutdown(async {
        // The other end is dropped to stop.
        let _ = stop_listening.await;
    });
    let mut server = tokio::spawn(serving.into_future());
    info!(%address, "server listens");
    on_ready(address);

    let ended = loop {
        if stop.load(Ordering::SeqCst) {
            break None;
        }
        if let Some(thread) = threads.iter().find(|thread| thread.is_finished()) {
            break Some(anyhow!("{} ended", thread.thread().name().unwrap_or("a thread")));
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    };
    drop(stop_sender);
    if tokio::time::timeout(drain, &mut server).await.is_err() {
        warn!("requests were still running at the end of the drain time; they are cut");
        server.abort();
    }
    ended.map_or(Ok(()), Err)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_string()).spawn(body).with_context(|| format!("start {name}"))
}
