//! The door and the engine thread together: a fault of the engine is mended by loading the model again.

use crate::door::files::Files;
use crate::door::{DOOR_QUEUE, Door, DoorOptions, DoorOrder, DoorView, FAULT};
use crate::engine_thread::tests::model::{CONTEXT, MODEL_NAME, Model};
use crate::engine_thread::{Admission, EngineOrder, GenerateOrder, ORDER_QUEUE, Serving, run};
use hone_generate::{EngineOptions, GenRequest};
use std::sync::Arc;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Both threads, with one deployment serving.
struct Rig {
    orders: mpsc::Sender<DoorOrder>,
    engine: mpsc::Sender<EngineOrder>,
    serving: watch::Receiver<Option<Serving>>,
    view: watch::Receiver<DoorView>,
    threads: Vec<JoinHandle<()>>,
    root: TempDir,
}

impl Rig {
    fn serving(model: &Model) -> Rig {
        let root = TempDir::new().unwrap();
        let files = Files::open(root.path()).unwrap();
        for file in &model.request.files {
            files.blobs().put_file(&file.blake3, &model.dir.path().join(&file.path)).unwrap();
        }
        let (engine, engine_orders) = mpsc::channel(ORDER_QUEUE);
        let (orders, door_orders) = mpsc::channel(DOOR_QUEUE);
        let (serving_sender, serving) = watch::channel(None);
        let (view_sender, view) = watch::channel(DoorView::default());
        let options = DoorOptions {
            engine: EngineOptions { threads: 1, slots: 2, max_context: CONTEXT, ..EngineOptions::default() },
            model_name: MODEL_NAME.to_string(),
            keep_deployments: 0,
            max_memory_bytes: 0,
        };
        let door = Door::open(options, files, engine.clone(), serving.clone(), view_sender).unwrap();
        let faults = orders.downgrade();
        let mut on_fault = move || faults.upgrade().is_none_or(|door| door.try_send(DoorOrder::Reload).is_ok());
        let threads = vec![
            std::thread::spawn(move || run(engine_orders, serving_sender, Arc::default(), &mut on_fault)),
            std::thread::spawn(move || door.run(door_orders)),
        ];
        let rig = Rig { orders, engine, serving, view, threads, root };
        let id = rig.ask(|reply| DoorOrder::Deploy(Box::new(model.request.clone()), reply));
        rig.ask(|reply| DoorOrder::Switch(id, reply));
        rig
    }

    fn ask(
        &self,
        order: impl FnOnce(
            oneshot::Sender<Result<hone_pipeline::wire::ServerDeployment, crate::error::ApiError>>,
        ) -> DoorOrder,
    ) -> u64 {
        let (reply, answer) = oneshot::channel();
        self.orders.blocking_send(order(reply)).ok().unwrap();
        answer.blocking_recv().unwrap().unwrap().id
    }

    fn break_engine(&self) -> Serving {
        let before = self.serving.borrow().clone().unwrap();
        self.engine.blocking_send(EngineOrder::Fail).ok().unwrap();
        before
    }

    fn end(self) {
        drop((self.orders, self.engine));
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Waits until the value is so.
fn wait_for<T: Clone>(receiver: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(receiver.wait_for(is_so)).unwrap().clone()
}

#[test]
fn a_model_whose_engine_failed_is_loaded_again() {
    let mut rig = Rig::serving(&Model::random(1, 1));
    let before = rig.break_engine();
    let again = |serving: &Option<Serving>| serving.as_ref().is_some_and(|s| !Arc::ptr_eq(&s.served, &before.served));
    let now = wait_for(&mut rig.serving, again).unwrap();
    assert_eq!(now.served.manifest_hash, before.served.manifest_hash);
    let (admitted, admission) = oneshot::channel();
    let requests = vec![GenRequest { prompt: vec![5], max_tokens: 1, ..GenRequest::default() }];
    let place = Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
    let places = Arc::downgrade(&place);
    let order = GenerateOrder { served: now.served, requests, places, deadline: None, admitted };
    rig.engine.blocking_send(EngineOrder::Generate(order)).ok().unwrap();
    assert!(matches!(admission.blocking_recv().unwrap(), Admission::Admitted(_)));
    assert_eq!(rig.view.borrow().reason, FAULT, "what `/ready` says while nothing serves");
    rig.end();
}

#[test]
fn a_model_that_cannot_be_loaded_again_leaves_a_reason() {
    let mut rig = Rig::serving(&Model::random(1, 1));
    let weights = rig.root.path().join("deployments/1/model/model.safetensors");
    hone_disk::remove_file(&weights).unwrap();
    rig.break_engine();
    let view = wait_for(&mut rig.view, |view| view.reason.starts_with("the last served deployment cannot be loaded"));
    assert!(!view.deployments.iter().any(|deployment| deployment.state == "serving"));
    assert!(rig.serving.borrow().is_none());
    rig.end();
}
