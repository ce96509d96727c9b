//! The thread that owns the models and does all computing. One model serves; models that were switched away from
//! finish what they admitted and are then dropped. A request never changes its model: either the one that its
//! prompt was made for admits it, or it is told to prepare again.
//!
//! Nothing is cancelled by message: a request whose receiver is gone, or whose time is over, is forgotten before the next
//! step. Its places in the queue are held here from its admission on, and come free when all of it is generated, whether or
//! not its client reads.
//!
//! Where memory does not allow a second model the door holds admissions: requests wait here, the running ones end, the
//! model is dropped, and a switch lets those that waited go on. A model whose engine fails is dropped at once; its requests
//! are told, and the door loads it again.

use crate::clock::now_ms;
use crate::error::ApiError;
use crate::metrics::{EngineState, Metrics};
use crate::served::Served;
use anyhow::anyhow;
use hone_generate::{Engine, GenEventKind, GenRequest, Refusal, RequestId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tracing::{error, info};

#[cfg(test)]
pub(crate) mod tests;

/// Orders that may wait for the thread; senders wait beyond.
pub const ORDER_QUEUE: usize = 64;
/// Events of one choice beyond one for each token: its end, and some air.
const EVENTS_BEYOND_TOKENS: usize = 4;

/// What the thread is asked to do.
pub enum EngineOrder {
    /// Answer.
    Generate(GenerateOrder),
    /// Give new requests to this model from now on.
    Switch {
        /// The new model.
        model: Box<Loaded>,
        /// Told when it is so.
        done: oneshot::Sender<()>,
    },
    /// Tell when at most the serving model is in memory.
    Settle(oneshot::Sender<()>),
    /// Let new requests wait from now on, and tell when no model is in memory any more. Ended by `Switch` or `GiveUp`.
    Hold(oneshot::Sender<()>),
    /// Nothing serves: whoever waits is told so.
    GiveUp(ApiError),
    /// The next step of the serving model fails.
    #[cfg(test)]
    Fail,
}

/// A request with all its choices.
pub struct GenerateOrder {
    /// The model that the prompts were made for.
    pub served: Arc<Served>,
    /// One per choice.
    pub requests: Vec<GenRequest>,
    /// Its places in the queue. Until it is admitted its client holds them, who gives them back by going away.
    pub places: Weak<OwnedSemaphorePermit>,
    /// When it is given up.
    pub deadline: Option<Instant>,
    /// Told whether it was admitted, and where its events will come from.
    pub admitted: oneshot::Sender<Admission>,
}

/// Whether a request was admitted.
pub enum Admission {
    /// Yes.
    Admitted(mpsc::Receiver<ChoiceEvent>),
    /// Another model serves by now: prepare again.
    Stale,
    /// No.
    Refused(ApiError),
}

/// Something that happened to one choice of a request. The channel holds all events that can come, so the thread
/// never waits for a slow client.
#[derive(Debug)]
pub struct ChoiceEvent {
    /// Index of the choice.
    pub choice: usize,
    /// What happened.
    pub kind: GenEventKind,
}

/// A model in memory.
pub struct Loaded {
    /// What it is.
    pub served: Arc<Served>,
    /// What computes.
    pub engine: Engine,
}

/// The serving model and since when, as everybody else sees it.
#[derive(Clone)]
pub struct Serving {
    /// The model.
    pub served: Arc<Served>,
    /// Since when, in ms since the epoch.
    pub since_ms: u64,
}

struct Model {
    loaded: Loaded,
    /// Whether it admits requests: at most one does.
    serves: bool,
    /// Whether its engine had a fault: it computes nothing any more.
    is_faulty: bool,
    running: HashMap<RequestId, Running>,
}

/// A choice that waits for a slot or has one.
struct Running {
    choice: usize,
    events: mpsc::Sender<ChoiceEvent>,
    deadline: Option<Instant>,
    /// Those of all choices of its request: the last one gives them back.
    _places: Arc<OwnedSemaphorePermit>,
}

struct EngineThread<'a> {
    serving: watch::Sender<Option<Serving>>,
    metrics: Arc<Metrics>,
    models: Vec<Model>,
    next_id: u64,
    /// Of the models that are gone.
    past_prefixes: (u64, u64),
    /// Requests that wait for the next model, while admissions are held. As many as there are places at most.
    held: Option<Vec<GenerateOrder>>,
    /// Told when no model is left.
    emptied: Option<oneshot::Sender<()>>,
    /// Told when at most one model is left.
    settled: Vec<oneshot::Sender<()>>,
    /// Whether the serving model failed and `on_fault` has not taken it yet.
    fault_to_tell: bool,
    on_fault: &'a mut dyn FnMut() -> bool,
}

/// Body of the thread: ends when the last sender is gone. `on_fault` is told that the serving model failed and serves no
/// more; where it answers false it is told again.
pub fn run(
    mut orders: mpsc::Receiver<EngineOrder>,
    serving: watch::Sender<Option<Serving>>,
    metrics: Arc<Metrics>,
    on_fault: &mut dyn FnMut() -> bool,
) {
    let mut thread = EngineThread {
        serving,
        metrics,
        models: Vec::new(),
        next_id: 0,
        past_prefixes: (0, 0),
        held: None,
        emptied: None,
        settled: Vec::new(),
        fault_to_tell: false,
        on_fault,
    };
    loop {
        thread.drop_drained();
        thread.report();
        thread.tell();
        if thread.is_idle() {
            match orders.blocking_recv() {
                Some(order) => thread.take(order),
                None => return,
            }
        }
        loop {
            match orders.try_recv() {
                Ok(order) => thread.take(order),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
        }
        thread.forget_abandoned();
        thread.step();
    }
}

impl EngineThread<'_> {
    fn is_idle(&self) -> bool {
        self.models.iter().all(|model| model.running.is_empty())
    }

    fn take(&mut self, order: EngineOrder) {
        match order {
            EngineOrder::Generate(order) => self.admit(order),
            EngineOrder::Switch { model, done } => self.switch(*model, done),
            EngineOrder::Settle(done) => self.settled.push(done),
            EngineOrder::Hold(done) => self.hold(done),
            EngineOrder::GiveUp(error) => self.give_up(&error),
            #[cfg(test)]
            EngineOrder::Fail => {
                self.models.iter_mut().filter(|model| model.serves).for_each(|model| model.is_faulty = true);
            }
        }
    }

    fn switch(&mut self, loaded: Loaded, done: oneshot::Sender<()>) {
        info!(checkpoint = %loaded.served.checkpoint, deployment = loaded.served.deployment, "serving model switched");
        let serving = Serving { served: loaded.served.clone(), since_ms: now_ms() };
        for model in &mut self.models {
            model.serves = false;
        }
        self.models.push(Model { loaded, serves: true, is_faulty: false, running: HashMap::new() });
        self.serving.send_replace(Some(serving));
        let _ = done.send(());
        // Their prompts were made for another model: they are told so.
        for order in self.held.take().unwrap_or_default() {
            self.admit(order);
        }
    }

    /// What is running ends on its model, which is then dropped. What served last goes on to be what prompts are made for.
    fn hold(&mut self, done: oneshot::Sender<()>) {
        info!("no room for a second model: requests wait until the next one is loaded");
        for model in &mut self.models {
            model.serves = false;
        }
        self.held.get_or_insert_default();
        self.emptied = Some(done);
    }

    fn give_up(&mut self, error: &ApiError) {
        self.serving.send_replace(None);
        for order in self.held.take().unwrap_or_default() {
            let _ = order.admitted.send(Admission::Refused(error.clone()));
        }
    }

    fn admit(&mut self, order: GenerateOrder) {
        if let Some(held) = &mut self.held {
            held.retain(|order| !order.admitted.is_closed());
            return held.push(order);
        }
        // What was abandoned before this order came must not stand in its way.
        self.forget_abandoned();
        let model = self.models.iter_mut().find(|model| model.serves);
        let answer = match model.filter(|model| Arc::ptr_eq(&model.loaded.served, &order.served)) {
            Some(model) => match order.places.upgrade() {
                Some(places) => model.submit(order.requests, &places, order.deadline, &mut self.next_id),
                // The client is gone.
                None => return,
            },
            None => Admission::Stale,
        };
        // When the client is gone its receiver is dropped here, and the next sweep forgets the request.
        let _ = order.admitted.send(answer);
    }

    /// Also what takes too long: a client that does not read does not see its time go by.
    fn forget_abandoned(&mut self) {
        let now = Instant::now();
        for model in &mut self.models {
            let engine = &mut model.loaded.engine;
            model.running.retain(|id, running| {
                let wanted = !running.events.is_closed() && running.deadline.is_none_or(|deadline| now < deadline);
                if !wanted {
                    engine.cancel(*id);
                }
                wanted
            });
        }
    }

    fn step(&mut self) {
        for model in &mut self.models {
            model.step(&self.metrics);
        }
        if self.models.iter().any(|model| model.serves && model.is_faulty) {
            self.serving.send_replace(None);
            self.fault_to_tell = true;
        }
    }

    /// A model that serves no more goes when its requests have ended, a faulty one at once.
    fn drop_drained(&mut self) {
        let past = &mut self.past_prefixes;
        self.models.retain(|model| {
            let keep = !model.is_faulty && (model.serves || !model.running.is_empty());
            if !keep {
                // A counter never goes back.
                let counts = model.loaded.engine.prefix_counts();
                *past = (past.0 + counts.0, past.1 + counts.1);
            }
            keep
        });
    }

    /// Tells the door what it waits for.
    fn tell(&mut self) {
        if self.models.is_empty()
            && let Some(done) = self.emptied.take()
        {
            let _ = done.send(());
        }
        if self.models.len() <= 1 {
            for done in self.settled.drain(..) {
                let _ = done.send(());
            }
        }
        if self.fault_to_tell {
            self.fault_to_tell = !(self.on_fault)();
        }
    }

    fn report(&self) {
        let engines = || self.models.iter().map(|model| &model.loaded.engine);
        let serving = self.models.iter().find(|model| model.serves).map(|model| &model.loaded.engine);
        self.metrics.set_engine(&EngineState {
            running: engines().map(Engine::num_running).sum(),
            waiting: engines().map(Engine::num_waiting).sum(),
            models: self.models.len(),
            cache_use: serving.map_or(0.0, Engine::cache_use),
            prefix: engines()
                .map(Engine::prefix_counts)
                .fold(self.past_prefixes, |sum, more| (sum.0 + more.0, sum.1 + more.1)),
        });
    }
}

impl Model {
    /// Submits all choices or none.
    fn submit(
        &mut self,
        requests: Vec<GenRequest>,
        places: &Arc<OwnedSemaphorePermit>,
        deadline: Option<Instant>,
        next_id: &mut u64,
    ) -> Admission {
        let capacity = requests.iter().map(|request| request.max_tokens + EVENTS_BEYOND_TOKENS).sum();
        let (sender, receiver) = mpsc::channel(capacity);
        let mut ids = Vec::with_capacity(requests.len());
        for (choice, request) in requests.into_iter().enumerate() {
            *next_id += 1;
            let id = RequestId(*next_id);
            if let Err(refusal) = self.loaded.engine.submit(id, request) {
                for (id, _) in ids {
                    self.loaded.engine.cancel(id);
                }
                return Admission::Refused(refusal_error(refusal));
            }
            ids.push((id, choice));
        }
        let running = |choice| Running { choice, events: sender.clone(), deadline, _places: places.clone() };
        self.running.extend(ids.into_iter().map(|(id, choice)| (id, running(choice))));
        Admission::Admitted(receiver)
    }

    fn step(&mut self, metrics: &Metrics) {
        if self.running.is_empty() {
            return;
        }
        let events = match self.loaded.engine.step() {
            Ok(events) if !self.is_faulty => events,
            result => {
                let problem = result.err().unwrap_or_else(|| anyhow!("a fault of a test"));
                error!(checkpoint = %self.loaded.served.checkpoint, "failed to generate: {problem:#}");
                // Dropping the senders tells every client that its answer ended early.
                self.running.clear();
                self.is_faulty = true;
                return;
            }
        };
        for event in events {
            let ends = match &event.kind {
                GenEventKind::Token { .. } => {
                    metrics.add_token();
                    false
                }
                GenEventKind::Finished { .. } => true,
                GenEventKind::Failed { message } => {
                    error!(checkpoint = %self.loaded.served.checkpoint, "failed to generate: {message}");
                    true
                }
            };
            let Some(running) = self.running.get(&event.id) else { continue };
            let (events, told) = (running.events.clone(), ChoiceEvent { choice: running.choice, kind: event.kind });
            if ends {
                // Before it is told: whoever reads the end finds the places free.
                self.running.remove(&event.id);
            }
            // Closed: forgotten in the next sweep. Full cannot be: the channel holds every event that can come.
            let _ = events.try_send(told);
        }
    }
}

fn refusal_error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::ContextOverflow { limit, need } => ApiError::context_overflow("prompt", limit, need, 0),
        Refusal::Full { .. } => ApiError::queue_full(),
        Refusal::Invalid { field, message } => ApiError::invalid(field, message),
        Refusal::Duplicate { id } => {
            error!(id, "a request id was used twice");
            ApiError::internal()
        }
    }
}
