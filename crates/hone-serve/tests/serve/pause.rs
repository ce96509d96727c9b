//! Switches on a machine that has no room for two models.

use crate::fixture::*;
use hone_generate::{Engine, EngineOptions};
use hone_pipeline::wire::ServerDeployment;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A server whose limit is so many times what one of these models takes.
fn server_with_room_for(num_models: f64, model: &Model) -> Server {
    Server::start_with(|options| {
        let sizes =
            EngineOptions { slots: options.slots, max_context: options.max_context, ..EngineOptions::default() };
        let one = Engine::planned_bytes(model.dir.path(), &sizes).unwrap();
        options.max_memory_bytes = (num_models * one as f64) as u64;
    })
}

/// Sets a flag when it goes out of scope.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A model whose head is not a number.
fn broken(checkpoint: u64) -> Model {
    let model = Model::random(checkpoint, checkpoint);
    let mut weights = model.file("model.safetensors");
    let length = weights.len();
    weights[length - 4096..].fill(0xff);
    hone_disk::write_atomic(&model.dir.path().join("model.safetensors"), &weights).unwrap();
    Model::of(model.dir, checkpoint)
}

#[test]
fn without_room_for_two_models_requests_wait_and_none_fails() {
    let models = [Model::random(1, 1), Model::random(2, 2)];
    let body = with(greedy("count", 40), &json!({"stream": true}));
    // What each of them says on a server of its own.
    let alone = |model: &Model| {
        let (events, stamp) = Server::with(model).stream("/v1/chat/completions", &body);
        (stamp, streamed_content(&events, 0))
    };
    let expected: BTreeMap<String, String> = models.iter().map(alone).collect();
    let server = server_with_room_for(1.5, &models[0]);
    server.deploy(&models[0]);
    server.upload(&models[1]);
    let created: ServerDeployment = parsed(server.create(&models[1]));
    assert_eq!((created.id, created.state.as_str()), (2, "staged"), "verified, not loaded");

    let (stop, completed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Also where something here fails: the scope waits for its threads.
        let stopping = SetOnDrop(&stop);
        let client = || {
            while !stop.load(Ordering::SeqCst) {
                let (events, stamp) = server.stream("/v1/chat/completions", &body);
                assert_eq!(streamed_content(&events, 0), expected[&stamp], "{stamp}");
                completed.fetch_add(1, Ordering::SeqCst);
            }
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(client)).collect();
        for id in [2, 1, 2] {
            let before = completed.load(Ordering::SeqCst);
            assert_eq!(server.switch(id).state, "serving");
            wait_for("answers go on", || {
                assert!(server.metric("hone_serve_models") <= 1, "never a second one");
                completed.load(Ordering::SeqCst) >= before + 3 || clients.iter().any(|client| client.is_finished())
            });
        }
        drop(stopping);
        clients.into_iter().for_each(|client| client.join().expect("no stream fails"));
    });
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], models[1].stamp());
}

#[test]
fn what_fails_in_the_pause_makes_way_for_what_served() {
    let good = Model::random(1, 1);
    let server = server_with_room_for(1.5, &good);
    server.deploy(&good);
    let broken = broken(2);
    server.upload(&broken);
    assert_eq!(parsed::<ServerDeployment>(server.create(&broken)).state, "staged");
    let (status, code, _) = error_of(server.post("/admin/deployments/2/switch", &json!({})));
    assert_eq!((status, code.as_str()), (422, "deployment_failed"));
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], good.stamp());
    assert_eq!(server.states(), "1 serving, 2 failed");
    assert_eq!(json_of(server.get("/ready"))["status"], "ready");
}

#[test]
fn a_model_beyond_the_limit_is_refused_by_its_name() {
    let model = Model::random(1, 1);
    let server = server_with_room_for(0.9, &model);
    server.upload(&model);
    let mut answer = server.create(&model);
    let text = answer.body_mut().read_to_string().unwrap();
    assert_eq!(answer.status(), 422);
    assert!(text.contains("serve.max_memory_mb allows"), "{text}");
}
