//! The door: what comes in, what is refused, and that a switch never harms a request.

use crate::fixture::*;
use hone_pipeline::wire::ServerDeployment;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn a_checkpoint_walks_in_and_back_out() {
    let server = Server::start();
    let (first, second) = (Model::random(0, 1), Model::random(5, 2));
    assert_eq!(server.deploy(&first), 1);
    let fingerprint = || server.chat(&greedy("hi", 3))["system_fingerprint"].as_str().unwrap().to_string();
    assert_eq!(fingerprint(), first.stamp());

    // Only what differs is asked for: the weights and the manifest.
    let hashes: Vec<&str> = second.request.files.iter().map(|file| file.blake3.as_str()).collect();
    let missing = json_of(server.post("/admin/blobs/missing", &json!({"hashes": hashes})))["missing"].clone();
    assert_eq!(missing, json!([second.hash_of("manifest.json"), second.hash_of("model.safetensors")]));
    server.upload(&second);
    let created: ServerDeployment = parsed(server.create(&second));
    assert_eq!((created.id, created.state.as_str()), (2, "loaded"));
    assert_eq!(fingerprint(), first.stamp(), "loaded is not serving");
    assert_eq!(server.switch(2).state, "serving");
    assert_eq!(fingerprint(), second.stamp());
    assert_eq!(server.states(), "1 previous, 2 serving");

    let back: ServerDeployment = parsed(server.post("/admin/rollback", &json!({})));
    assert_eq!((back.id, back.state.as_str()), (1, "serving"));
    assert_eq!(fingerprint(), first.stamp());
    assert_eq!(server.states(), "1 serving, 2 previous");
    assert_eq!(error_of(server.post("/admin/deployments/9/switch", &json!({}))).0, 404);
    assert_eq!(error_of(server.post("/admin/deployments/x/switch", &json!({}))).0, 400);
}

#[test]
fn the_same_deployment_twice_is_one() {
    let server = Server::start();
    let model = Model::random(1, 1);
    server.upload(&model);
    let id = parsed::<ServerDeployment>(server.create(&model)).id;
    assert_eq!(parsed::<ServerDeployment>(server.create(&model)).id, id);
    assert_eq!(server.switch(id).state, "serving");
    assert_eq!(server.switch(id).state, "serving");
    assert_eq!(parsed::<ServerDeployment>(server.create(&model)).state, "serving");
    assert_eq!(server.states(), "1 serving");
    // Other template variables are another deployment of the same files.
    let mut other = model;
    other.request.chat_template_kwargs.insert("enable_thinking".to_string(), json!(false));
    assert_eq!(parsed::<ServerDeployment>(server.create(&other)).id, 2);
}

#[test]
fn a_restart_serves_what_served() {
    let (first, second) = (Model::random(3, 1), Model::random(4, 2));
    let server = Server::with(&first);
    server.deploy(&second);
    let root = server.root.clone();
    server.stopped().unwrap();
    let server = Server::start_in(root.clone(), |_| {});
    server.wait_until_ready();
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], second.stamp());
    let back: ServerDeployment = parsed(server.post("/admin/rollback", &json!({})));
    assert_eq!(back.checkpoint, first.request.checkpoint);
    server.stopped().unwrap();
    let server = Server::start_in(root, |_| {});
    server.wait_until_ready();
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], first.stamp());
    assert_eq!(server.states(), "1 serving, 2 previous");
}

#[test]
fn a_damaged_deployment_is_not_served_and_can_be_sent_again() {
    let model = Model::random(3, 1);
    let server = Server::with(&model);
    let root = server.root.clone();
    server.stopped().unwrap();
    // One bit of the weights flips on disk, in the blob and so in every link to it.
    let name = model.hash_of("model.safetensors");
    let mut weights = model.file("model.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    hone_disk::write_atomic(&root.path().join("blobs").join(name), &weights).unwrap();
    let served = root.path().join("deployments/1/model/model.safetensors");
    hone_disk::write_atomic(&served, &weights).unwrap();

    let server = Server::start_in(root, |_| {});
    wait_for("the reason is told", || {
        let reason = json_of(server.get("/ready"))["reason"].as_str().unwrap().to_string();
        reason.starts_with("the last served deployment cannot be loaded")
    });
    assert_eq!(error_of(server.post("/v1/chat/completions", &greedy("hi", 3))).0, 503);
    // The damaged blob is gone, so an ordinary deployment mends it: at most one round says "send it again".
    server.upload(&model);
    assert_eq!(error_of(server.create(&model)).1, "blobs_damaged");
    assert_eq!(server.deploy(&model), 2);
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], model.stamp());
}

#[test]
fn wrong_uploads_are_refused() {
    let server = Server::start_with(|options| options.max_blob_bytes = 1000);
    let hash = "a".repeat(64);
    let put = |name: &str, body: &[u8]| error_of(server.put(&format!("/admin/blobs/{name}"), body));
    assert_eq!(put(&hash, b"other bytes").1, "hash_mismatch");
    assert_eq!(put("..%2F..%2Fserved.json", b"x").0, 400);
    assert_eq!(put("short", b"x").0, 400);
    assert_eq!(put(&hash, &[0; 2000]).0, 413);
    assert_eq!(error_of(server.post("/admin/blobs/missing", &json!({"hashes": ["../x"]}))).0, 400);
    assert_eq!(error_of(server.post("/admin/blobs/missing", &json!({}))).0, 400);
    let left: Vec<_> = std::fs::read_dir(server.root.path().join("blobs")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_upload_that_breaks_off_goes_on() {
    let server = Server::start();
    let model = Model::random(1, 1);
    let hash = model.hash_of("model.safetensors");
    let blobs = server.root.path().join("blobs");
    let body = "x".repeat(100_000);
    let connection = server.raw_put(&format!("/admin/blobs/{hash}"), &body, 50_000);
    wait_for("it arrives", || std::fs::read_dir(&blobs).unwrap().count() == 1);
    drop(connection);
    // Those bytes were not the model's, and nobody can know yet: the whole blob from its start mends it.
    let arrived = || {
        let answer = json_of(server.post("/admin/blobs/missing", &json!({"hashes": [hash]})));
        answer["arrived"][&hash].as_u64().unwrap_or(0)
    };
    wait_for("it is kept", || arrived() > 0);
    // The connection's end may still be under way.
    let path = format!("/admin/blobs/{hash}");
    let weights = model.file("model.safetensors");
    wait_for("the upload has ended", || server.put_part(&path, &weights[..1000], 0, weights.len()).status() == 202);
    assert_eq!(arrived(), 1000);
    let (status, code, _) = error_of(server.put_part(&path, &weights[2000..3000], 2000, weights.len()));
    assert_eq!((status, code.as_str()), (416, "range_not_satisfiable"));
    assert_eq!(error_of(server.put_part(&path, &weights[..9], 0, 8)).0, 400, "a range beyond its total");
    assert_eq!(server.put_part(&path, &weights[1000..], 1000, weights.len()).status(), 201);
    assert_eq!(std::fs::read(blobs.join(&hash)).unwrap(), weights);
    server.deploy(&model);
}

#[test]
fn what_the_disk_has_no_room_for_is_refused_before_it_comes() {
    let server = Server::start_with(|options| options.min_free_bytes = u64::MAX / 2);
    let model = Model::random(1, 1);
    let hash = model.hash_of("model.safetensors");
    let size = model.file("model.safetensors").len();
    let (status, code, _) = error_of(server.post("/admin/blobs/missing", &json!({"hashes": [hash], "sizes": [size]})));
    assert_eq!((status, code.as_str()), (507, "no_room"));
    // The same for an upload that did not ask. It is small: a large one may lose the answer with its connection.
    let (status, code, _) = error_of(server.put(&format!("/admin/blobs/{hash}"), b"x"));
    assert_eq!((status, code.as_str()), (507, "no_room"));
    assert_eq!(std::fs::read_dir(server.root.path().join("blobs")).unwrap().count(), 0);
    let (status, _, _) = error_of(server.post("/admin/blobs/missing", &json!({"hashes": [hash], "sizes": [1, 2]})));
    assert_eq!(status, 400);
}

#[test]
fn what_cannot_serve_is_refused_and_the_old_one_goes_on() {
    let good = Model::random(1, 1);
    let server = Server::with(&good);
    // Blobs that were never sent.
    let absent = Model::random(2, 2);
    assert_eq!(error_of(server.create(&absent)).1, "blobs_missing");
    // Names that leave the folder.
    let mut traversal = Model::random(2, 2);
    traversal.request.files[0].path = "../../served.json".to_string();
    assert_eq!(error_of(server.create(&traversal)).2, "files[0].path");
    // Another model's name.
    let mut renamed = Model::random(2, 2);
    renamed.request.model_name = "other".to_string();
    let (status, code, param) = error_of(server.create(&renamed));
    assert_eq!((status, code.as_str(), param.as_str()), (409, "model_name_differs", "model_name"), "worth another try");
    // Weights cut short: complete as files, useless as a model.
    let broken = Model::random(2, 2);
    let weights = broken.file("model.safetensors");
    hone_disk::write_atomic(&broken.dir.path().join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let broken = Model::of(broken.dir, 2);
    server.upload(&broken);
    let mut answer = server.create(&broken);
    assert_eq!(answer.status(), 422);
    let text = answer.body_mut().read_to_string().unwrap();
    assert!(text.contains("model.safetensors"), "{text}");
    assert!(!text.contains(server.root.path().to_str().unwrap()), "paths stay in the log: {text}");
    let failed = server.deployments().pop().unwrap();
    assert_eq!((failed.id, failed.state.as_str()), (2, "failed"));
    assert!(!failed.error.is_empty());
    assert_eq!(error_of(server.post("/admin/deployments/2/switch", &json!({}))).1, "deployment_failed");

    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], good.stamp());
    assert_eq!(server.states(), "1 serving, 2 failed");
}

#[test]
fn old_deployments_are_pruned() {
    let server = Server::start_with(|options| options.keep_deployments = 1);
    for checkpoint in 1..=5 {
        server.deploy(&Model::random(checkpoint, checkpoint));
    }
    assert_eq!(server.states(), "3 loaded, 4 previous, 5 serving");
    let mut folders: Vec<_> = std::fs::read_dir(server.root.path().join("deployments"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, ["3", "4", "5"]);
    // Numbers never repeat, and what is kept can serve again.
    assert_eq!(server.switch(3).state, "serving");
    assert_eq!(server.deploy(&Model::random(9, 9)), 6);
}

/// Switches while streams run, and clients that keep streaming.
fn switches_and_clients() -> (usize, usize) {
    if std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") { (50, 64) } else { (6, 4) }
}

#[test]
fn switches_under_load_lose_and_mix_nothing() {
    // budget: 60 s
    let (num_switches, num_clients) = switches_and_clients();
    let server = Server::start_with(|options| options.max_queue = 2 * num_clients);
    let models = [Model::random(1, 1), Model::random(2, 2)];
    let body = with(greedy("count", 40), &json!({"stream": true}));
    for model in &models {
        server.deploy(model);
    }
    // What each of them says on a server of its own.
    let alone = |model: &Model| {
        let (events, stamp) = Server::with(model).stream("/v1/chat/completions", &body);
        (stamp, streamed_content(&events, 0))
    };
    let expected: BTreeMap<String, String> = models.iter().map(alone).collect();
    assert_eq!(expected.len(), 2);
    let (stop, completed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen = std::thread::scope(|scope| {
        let client = || {
            let mut seen = BTreeMap::new();
            while !stop.load(Ordering::SeqCst) {
                let (events, stamp) = server.stream("/v1/chat/completions", &body);
                assert!(events.iter().all(|event| event["system_fingerprint"] == stamp.as_str()));
                assert_eq!(streamed_content(&events, 0), expected[&stamp], "{stamp}");
                *seen.entry(stamp).or_insert(0) += 1;
                completed.fetch_add(1, Ordering::SeqCst);
            }
            seen
        };
        let clients: Vec<_> = (0..num_clients).map(|_| scope.spawn(client)).collect();
        for turn in 0..num_switches {
            let before = completed.load(Ordering::SeqCst);
            assert_eq!(server.switch(1 + (turn as u64 % 2)).state, "serving");
            wait_for("answers go on", || {
                completed.load(Ordering::SeqCst) >= before + 4 || clients.iter().any(|client| client.is_finished())
            });
        }
        stop.store(true, Ordering::SeqCst);
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for client in clients {
            for (stamp, count) in client.join().expect("no stream fails") {
                *seen.entry(stamp).or_insert(0) += count;
            }
        }
        seen
    });
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    // The last switch went to the second model; whatever was switched away from is out of memory by now.
    assert_eq!(server.chat(&greedy("hi", 3))["system_fingerprint"], models[1].stamp());
    wait_for("old models are dropped", || server.metric("hone_serve_models") == 1);
}

#[test]
fn after_a_switch_answers_are_those_of_a_cold_server_bit_for_bit() {
    let models = [Model::random(1, 1), Model::random(2, 2)];
    // Long enough that the cache keeps its beginning; greedy and drawn by a seed, with the numbers behind each token.
    let prompt = "a message that is asked before the switch and after it, word for word, again and again";
    let bodies = [json!({"temperature": 0}), json!({"temperature": 1, "seed": 7})]
        .map(|sampling| with(with(greedy(prompt, 24), &json!({"logprobs": true, "top_logprobs": 5})), &sampling));
    let choices = |server: &Server, body: &Value| server.chat(body)["choices"].take();
    let cold = models.each_ref().map(|model| bodies.each_ref().map(|body| choices(&Server::with(model), body)));
    assert!(cold[0] != cold[1] && cold.iter().all(|[greedy, drawn]| greedy != drawn), "they can be told apart");

    let server = Server::start();
    for model in &models {
        server.deploy(model);
    }
    let hits = || server.metric("hone_serve_prefix_hits_total");
    for turn in [0, 1, 0] {
        assert_eq!(server.switch(1 + turn as u64).state, "serving");
        let before = hits();
        assert_eq!(choices(&server, &bodies[0]), cold[turn][0], "model {turn}, first");
        assert_eq!(hits(), before, "nothing that another model computed is taken over");
        for (body, expected) in bodies.iter().zip(&cold[turn]) {
            let before = hits();
            assert_eq!(&choices(&server, body), expected, "model {turn}, with its beginning in the cache");
            assert!(hits() >= before + 16, "its beginning was not in the cache");
        }
    }
}
