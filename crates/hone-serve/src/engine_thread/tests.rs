//! The engine thread with tiny models: what is admitted, what a switch leaves alone, what is forgotten.

use super::*;
use crate::door::load::load;
use hone_generate::{EngineOptions, FinishReason};
use model::Model;
use std::thread::JoinHandle;
use tokio::sync::Semaphore;

#[path = "../../tests/serve/model.rs"]
pub(crate) mod model;

/// Tokens of an answer that outlives a switch.
const LONG: usize = 2_000;

/// Places of the queue.
const PLACES: usize = 16;

/// The thread with its ends.
struct Rig {
    places: Arc<Semaphore>,
    orders: mpsc::Sender<EngineOrder>,
    serving: watch::Receiver<Option<Serving>>,
    metrics: Arc<Metrics>,
    /// A message for each fault that the door was told.
    faults: std::sync::mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Rig {
    fn start() -> Rig {
        let (orders, receiver) = mpsc::channel(ORDER_QUEUE);
        let (sender, serving) = watch::channel(None);
        let metrics = Arc::new(Metrics::default());
        let thread_metrics = metrics.clone();
        let (told, faults) = std::sync::mpsc::channel();
        let mut tries = 0;
        // The door is busy the first time.
        let mut on_fault = move || {
            tries += 1;
            tries > 1 && told.send(()).is_ok()
        };
        let thread = std::thread::spawn(move || run(receiver, sender, thread_metrics, &mut on_fault));
        Rig { places: Arc::new(Semaphore::new(PLACES)), orders, serving, metrics, faults, thread }
    }

    fn order(&self, order: EngineOrder) {
        self.orders.blocking_send(order).ok().unwrap();
    }

    fn switch(&self, loaded: Loaded) -> Arc<Served> {
        let served = loaded.served.clone();
        let (done, switched) = oneshot::channel();
        let order = EngineOrder::Switch { model: Box::new(loaded), done };
        self.orders.blocking_send(order).ok().unwrap();
        switched.blocking_recv().unwrap();
        served
    }

    fn generate(&self, served: &Arc<Served>, requests: Vec<GenRequest>) -> Admission {
        self.generate_until(None, served, requests)
    }

    fn generate_until(&self, deadline: Option<Instant>, served: &Arc<Served>, requests: Vec<GenRequest>) -> Admission {
        let places = Arc::new(self.places.clone().try_acquire_many_owned(requests.len() as u32).unwrap());
        let (admitted, admission) = oneshot::channel();
        let order =
            GenerateOrder { served: served.clone(), requests, places: Arc::downgrade(&places), deadline, admitted };
        self.order(EngineOrder::Generate(order));
        admission.blocking_recv().unwrap()
    }

    /// An order whose admission is awaited later, by a client that has no place.
    fn order_later(&self, served: &Arc<Served>) -> oneshot::Receiver<Admission> {
        let (admitted, admission) = oneshot::channel();
        let (served, requests, places) = (served.clone(), vec![request(3)], Weak::new());
        self.order(EngineOrder::Generate(GenerateOrder { served, requests, places, deadline: None, admitted }));
        admission
    }

    fn admitted(&self, served: &Arc<Served>, requests: Vec<GenRequest>) -> mpsc::Receiver<ChoiceEvent> {
        match self.generate(served, requests) {
            Admission::Admitted(events) => events,
            Admission::Stale => panic!("stale"),
            Admission::Refused(error) => panic!("{error:?}"),
        }
    }

    fn end(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

fn loaded(checkpoint: u64) -> Loaded {
    let model = Model::random(checkpoint, checkpoint);
    let options =
        EngineOptions { threads: 1, slots: 2, max_waiting: 2, max_context: model::CONTEXT, ..EngineOptions::default() };
    load(checkpoint, &model.request, model.dir.path(), &options).unwrap()
}

fn request(max_tokens: usize) -> GenRequest {
    GenRequest { prompt: vec![5, 6, 7], max_tokens, ..GenRequest::default() }
}

/// The tokens of one choice, to its end.
fn tokens(events: &mut mpsc::Receiver<ChoiceEvent>) -> Vec<u32> {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().expect("the answer ends before the channel does").kind {
            GenEventKind::Token { token, .. } => tokens.push(token),
            GenEventKind::Finished { reason, .. } => {
                assert_eq!(reason, FinishReason::Length);
                return tokens;
            }
            GenEventKind::Failed { message } => panic!("{message}"),
        }
    }
}

#[test]
fn a_prompt_of_another_model_is_not_admitted() {
    let rig = Rig::start();
    let nobody = loaded(9).served;
    assert!(matches!(rig.generate(&nobody, vec![request(1)]), Admission::Stale), "nothing serves yet");
    let old = rig.switch(loaded(1));
    rig.admitted(&old, vec![request(1)]);
    let new = rig.switch(loaded(2));
    assert!(matches!(rig.generate(&old, vec![request(1)]), Admission::Stale));
    rig.admitted(&new, vec![request(1)]);
    assert_eq!(rig.serving.borrow().as_ref().unwrap().served.deployment, 2);
    rig.end();
}

#[test]
fn a_request_in_flight_ends_on_the_model_that_admitted_it() {
    let rig = Rig::start();
    let old = rig.switch(loaded(1));
    // Loaded beforehand, and long answers: the switch comes while the first one is far from its end.
    let next = loaded(2);
    let alone = tokens(&mut rig.admitted(&old, vec![request(LONG)]));
    let mut flying = rig.admitted(&old, vec![request(LONG)]);
    let first = flying.blocking_recv().unwrap();
    assert!(matches!(first.kind, GenEventKind::Token { token, .. } if token == alone[0]));
    let new = rig.switch(next);
    assert!(flying.len() < LONG - 1, "the answer was complete before the switch");
    let newer = tokens(&mut rig.admitted(&new, vec![request(20)]));
    assert_eq!(tokens(&mut flying), alone[1..]);
    assert_ne!(newer, alone[..20], "the two models can be told apart");
    // Two models were in memory; one more order makes the thread come round and drop the old one.
    rig.admitted(&new, vec![request(1)]).blocking_recv();
    let metrics = rig.metrics.clone();
    rig.end();
    assert!(metrics.render("tiny").contains("hone_serve_models 1\n"));
}

#[test]
fn choices_are_admitted_all_or_none() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    // Two may wait; the third of one request is refused, and with it the first two.
    let Admission::Refused(error) = rig.generate(&served, vec![request(5); 3]) else { panic!("admitted") };
    assert_eq!(error.status.as_u16(), 429);
    let mut events = rig.admitted(&served, vec![request(5); 2]);
    let mut seen = [0, 0];
    while let Some(event) = events.blocking_recv() {
        seen[event.choice] += usize::from(matches!(event.kind, GenEventKind::Token { .. }));
    }
    assert_eq!(seen, [5, 5]);
    rig.end();
}

#[test]
fn an_abandoned_request_frees_its_place() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    let abandoned = rig.admitted(&served, vec![request(model::CONTEXT - 3); 2]);
    drop(abandoned);
    // Both slots were taken for thousands of tokens; this one is answered all the same, long before that.
    assert_eq!(tokens(&mut rig.admitted(&served, vec![request(3)])).len(), 3);
    let metrics = rig.metrics.render("tiny");
    let line = metrics.lines().find(|line| line.starts_with("hone_serve_generated_tokens_total ")).unwrap();
    let generated: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(generated < model::CONTEXT, "{generated} tokens");
    rig.end();
}

#[test]
fn places_come_free_when_all_is_generated_though_nobody_reads() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    let mut unread = rig.admitted(&served, vec![request(2), request(5)]);
    // Waits for one of their slots, and so ends after both. (It is refused until both have their slots: two may wait.)
    let mut behind = loop {
        match rig.generate(&served, vec![request(20)]) {
            Admission::Admitted(events) => break events,
            Admission::Stale => panic!("stale"),
            Admission::Refused(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(tokens(&mut behind).len(), 20);
    assert_eq!(rig.places.available_permits(), PLACES);
    let mut num_ends = 0;
    while let Some(event) = unread.blocking_recv() {
        num_ends += usize::from(matches!(event.kind, GenEventKind::Finished { .. }));
    }
    assert_eq!(num_ends, 2, "nothing is lost for a client that reads late");
    rig.end();
}

#[test]
fn an_answer_whose_time_is_over_ends_though_nobody_reads() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    let now = Some(Instant::now());
    let Admission::Admitted(mut late) = rig.generate_until(now, &served, vec![request(LONG)]) else {
        panic!("refused")
    };
    let mut finished = false;
    while let Some(event) = late.blocking_recv() {
        finished |= matches!(event.kind, GenEventKind::Finished { .. });
    }
    assert!(!finished);
    assert_eq!(tokens(&mut rig.admitted(&served, vec![request(3)])).len(), 3);
    assert_eq!(rig.places.available_permits(), PLACES);
    rig.end();
}

#[test]
fn ending_the_thread_ends_every_answer() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    let mut events = rig.admitted(&served, vec![request(model::CONTEXT - 3)]);
    rig.end();
    let mut finished = false;
    while let Some(event) = events.blocking_recv() {
        finished |= matches!(event.kind, GenEventKind::Finished { .. });
    }
    assert!(!finished, "an answer that was cut is not called finished");
}

#[test]
fn no_third_model_is_loaded_before_the_first_is_gone() {
    let rig = Rig::start();
    let old = rig.switch(loaded(1));
    let mut flying = rig.admitted(&old, vec![request(LONG)]);
    rig.switch(loaded(2));
    let (done, mut settled) = oneshot::channel();
    rig.order(EngineOrder::Settle(done));
    assert!(matches!(flying.blocking_recv().unwrap().kind, GenEventKind::Token { .. }));
    assert!(settled.try_recv().is_err(), "the old model still answers");
    assert_eq!(tokens(&mut flying).len(), LONG - 1);
    settled.blocking_recv().unwrap();
    rig.end();
}

#[test]
fn held_requests_wait_for_the_next_model_and_running_ones_end() {
    let rig = Rig::start();
    let old = rig.switch(loaded(1));
    let next = loaded(2);
    let mut flying = rig.admitted(&old, vec![request(LONG)]);
    let (done, mut emptied) = oneshot::channel();
    rig.order(EngineOrder::Hold(done));
    let mut admission = rig.order_later(&old);
    assert!(matches!(flying.blocking_recv().unwrap().kind, GenEventKind::Token { .. }));
    assert!(emptied.try_recv().is_err(), "the model goes when its answers have ended");
    assert_eq!(tokens(&mut flying).len(), LONG - 1);
    emptied.blocking_recv().unwrap();
    assert!(rig.metrics.render("tiny").contains("hone_serve_models 0\n"));
    assert!(admission.try_recv().is_err(), "it waits");
    let new = rig.switch(next);
    assert!(matches!(admission.blocking_recv().unwrap(), Admission::Stale), "to be prepared for the new model");
    assert_eq!(tokens(&mut rig.admitted(&new, vec![request(3)])).len(), 3);

    // Nothing could be loaded: whoever waits is told.
    let (done, emptied) = oneshot::channel();
    rig.order(EngineOrder::Hold(done));
    emptied.blocking_recv().unwrap();
    let admission = rig.order_later(&new);
    rig.order(EngineOrder::GiveUp(ApiError::unavailable("nothing loads")));
    assert!(matches!(admission.blocking_recv().unwrap(), Admission::Refused(error) if error.status == 503));
    assert!(rig.serving.borrow().is_none());
    rig.end();
}

#[test]
fn a_faulty_engine_is_dropped_and_the_door_is_told() {
    let rig = Rig::start();
    let served = rig.switch(loaded(1));
    let mut flying = rig.admitted(&served, vec![request(LONG)]);
    rig.order(EngineOrder::Fail);
    let mut finished = false;
    while let Some(event) = flying.blocking_recv() {
        finished |= matches!(event.kind, GenEventKind::Finished { .. });
    }
    assert!(!finished, "the answer broke off");
    assert!(matches!(rig.generate(&served, vec![request(1)]), Admission::Stale));
    rig.faults.recv().unwrap();
    assert!(rig.serving.borrow().is_none(), "nothing serves until it is loaded again");
    let again = rig.switch(loaded(1));
    assert_eq!(tokens(&mut rig.admitted(&again, vec![request(3)])).len(), 3);
    rig.end();
}
