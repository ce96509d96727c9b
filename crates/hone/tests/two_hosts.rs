//! A trainer and an inference host with addresses of their own: keys, `http` over a line that is slow and cut again and
//! again, `rsync` over ssh whose line is cut too, and a receiver whose disk is full until somebody makes room.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]
#![expect(clippy::print_stdout, reason = "which two hosts it had is told")]

#[path = "hosts/inference.rs"]
mod inference;
#[expect(dead_code, reason = "faults of servers are another test's concern")]
#[path = "hosts/line.rs"]
mod line;
#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use inference::Inference;
use line::{Behaviour, Line};
use rig::{Rig, rows_of_binary};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const KEY: &str = "the-key-of-both-hosts";
const MODEL: &str = "two-hosts";
const LIMIT: Duration = Duration::from_secs(120);
/// Ports of the servers on the other host.
const PORTS: [u16; 3] = [18_765, 18_766, 18_767];
/// Less than the weights of the tiny model (3.4 MB), and enough for everything.
const FULL: u64 = 2 << 20;
const ROOMY: u64 = 64 << 20;

// budget: 60 s
#[test]
fn a_checkpoint_reaches_another_host_over_bad_lines() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    if std::env::var_os("HONE_TWO_HOSTS").is_none() {
        return inference::run_apart("a_checkpoint_reaches_another_host_over_bad_lines", KEY);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut host = Inference::make(folder.path());
    let ports = if host.is_apart { PORTS } else { PORTS.map(|_| port_of(&rig::free_address())) };
    let urls = ports.map(|port| format!("http://{}:{port}", host.address));
    let roots = ["by-http", "by-rsync"].map(|name| folder.path().join(name));
    let disk = host.disk("full", FULL);
    for (root, port) in roots.iter().chain([&disk]).zip(ports) {
        serve(&mut host, root, port);
    }
    // ssh goes over a line that is cut as well.
    let cut = Behaviour { cut_after: Some(2 << 20), ..Behaviour::default() };
    let mut ssh_line: Option<Line> = None;
    let (shell, kind) = host.shell(|sshd| {
        let line = ssh_line.insert(Line::of_bytes(sshd));
        line.behave(cut.clone());
        line.port()
    });
    let has_rsync = Command::new("rsync").arg("--version").output().is_ok();

    // Half a second for the weights of the tiny model, and no connection that gets all of them over.
    let line = Line::before(urls[0].strip_prefix("http://").unwrap());
    line.behave(Behaviour { bytes_per_s: Some(6 << 20), ..cut });
    let mut targets = vec![
        json!({"name": "http", "url": line.url, "transport": "http"}),
        json!({"name": "full", "url": urls[2], "transport": "http"}),
    ];
    if has_rsync {
        let destination = format!("{}:{}", host.address, roots[1].join("serve").display());
        targets.push(
            json!({"name": "rsync", "url": urls[1], "transport": "rsync", "destination": destination, "rsh": shell}),
        );
    }
    let mut names: Vec<String> = targets.iter().map(|target| target["name"].as_str().unwrap().to_string()).collect();
    let targets = Value::from(targets).to_string();
    let mut rig = Rig::new(&[
        ("deployment.targets", &targets),
        ("deployment.watch_sec", "0"),
        ("model_name", MODEL),
        ("limits.retry_backoff_sec", "0.1"),
        ("save_steps", "100"),
        ("epochs", "1"),
    ]);
    rig.write_validation(&rows_of_binary(3, 40));
    rig.start_daemon();

    // A full disk holds up nobody else, takes no byte, and is told.
    names.retain(|name| !host.is_apart || name != "full");
    rig.wait("checkpoint-0 is served where there is room", LIMIT, |status| live(status, 0) == sorted(&names));
    assert!(line.num_cuts() >= 1, "the line was never cut");
    let num_ssh_cuts = || ssh_line.as_ref().map_or(0, Line::num_cuts);
    assert!(num_ssh_cuts() >= 1 || !has_rsync || kind != "ssh", "the line of ssh was never cut");
    if host.is_apart {
        let order = order_of(&rig, "full");
        assert_eq!(order["state"]["state"], "pending", "{order}");
        wait_for_events(&rig, "full", "must stay free");
        assert_eq!(std::fs::read_dir(disk.join("serve/blobs")).unwrap().count(), 0);
        host.grow(&disk, ROOMY);
        assert!(rig.succeeds(&["deploy"]), "a person does not wait for the back-off");
        names.push("full".to_string());
        rig.wait("checkpoint-0 is served everywhere", LIMIT, |status| live(status, 0) == sorted(&names));
    }

    // Without the key nobody sees or orders anything.
    let ask = |url: &str, key: Option<&str>| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.get(format!("{url}/admin/deployments"));
        let request = if let Some(key) = key { request.header("x-api-key", key) } else { request };
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json::<Value>().unwrap())
    };
    assert_eq!((ask(&urls[0], None).0, ask(&urls[0], Some("another")).0), (401, 401));

    // What is trained here is served there, and the server itself says so.
    let file = rig.file("data.jsonl", &rows_of_binary(1, 160));
    assert_eq!(rig.hone(&["submit", &file, "--json"]).json()["state"]["state"], "accepted");
    rig.wait("checkpoint-20 is served everywhere", LIMIT, |status| live(status, 20) == sorted(&names));
    let manifest = std::fs::read(rig.root().join("checkpoints/checkpoint-20/manifest.json")).unwrap();
    for (url, name) in urls.iter().zip(["http", "rsync", "full"]).filter(|(_, name)| names.iter().any(|n| n == name)) {
        let (_, list) = ask(url, Some(KEY));
        let serving = list.as_array().unwrap().iter().find(|deployment| deployment["state"] == "serving").unwrap();
        assert_eq!(serving["checkpoint"], 20, "{name}");
        assert_eq!(serving["manifest_hash"], hash_of(&manifest), "{name}");
    }
    let apart = if host.is_apart { "two network namespaces" } else { "loopback" };
    let rsync = if has_rsync { kind } else { "no rsync" };
    let (cuts, ssh_cuts) = (line.num_cuts(), num_ssh_cuts());
    println!("two hosts: {apart}; {rsync}; the slow line was cut {cuts} times, that of ssh {ssh_cuts} times");
}

/// A server with a root of its own on the other host.
fn serve(host: &mut Inference, root: &Path, port: u16) {
    let mut command = host.on_it(env!("CARGO_BIN_EXE_hone"));
    command.arg("--root").arg(root).args([
        "--set",
        &format!("model_name={MODEL}"),
        "--set",
        "serve.min_free_bytes=65536",
    ]);
    command.args(["--set", "serve.cache_mb=16", "serve", "--listen", &format!("{}:{port}", host.address)]);
    host.start(command, &format!("serve-{port}"));
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Targets on which a checkpoint is live, sorted.
fn live(status: &Value, checkpoint: u64) -> Vec<String> {
    let live = status["live"].as_array().unwrap().iter().filter(|order| order["checkpoint"] == checkpoint);
    sorted(&live.map(|order| order["target"].as_str().unwrap().to_string()).collect::<Vec<_>>())
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

fn order_of(rig: &Rig, target: &str) -> Value {
    let orders = rig.hone(&["deployments", "--json"]).json();
    orders.as_array().unwrap().iter().rev().find(|order| order["target"] == target).unwrap().clone()
}

/// Waits for an event about an order for the target that says so.
fn wait_for_events(rig: &Rig, target: &str, words: &str) {
    rig.wait(&format!("{target}: {words}"), LIMIT, |_| {
        let events = hone_store::Store::open_read_only(&rig.root()).unwrap().events(Some(0), 100_000).unwrap();
        events.iter().any(|(_, event)| event.message.contains(target) && event.message.contains(words))
    });
}

fn hash_of(bytes: &[u8]) -> String {
    hone_disk::hash_bytes(bytes)
}
