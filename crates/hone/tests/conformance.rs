//! The table of conformance cases (`conformance/cases.jsonl`) against the real binary: by raw HTTP here, and by OpenAI's
//! own Python and Node clients where `HONE_OPENAI_PYTHON` (an interpreter with `openai`) and `HONE_OPENAI_NODE` (a folder
//! with `node_modules/openai`) are set; `scripts/openai_clients.sh` installs both and runs this.

#[path = "conformance/check.rs"]
mod check;
#[path = "conformance/model_folder.rs"]
mod model_folder;
#[path = "conformance/scripted.rs"]
mod scripted;
#[path = "conformance/server.rs"]
mod server;
#[path = "conformance/table.rs"]
mod table;

use serde_json::json;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The issue asks for this many.
const FEWEST_CASES: usize = 150;
/// Fewest of them that the official clients can send.
const FEWEST_CASES_OF_A_CLIENT: usize = 100;

// budget: 20 s
#[test]
fn every_case_of_the_table_holds_over_http() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let cases = table::load();
    assert!(cases.len() >= FEWEST_CASES, "only {} cases", cases.len());
    let server = Server::start(&[]);
    let problems: Vec<String> = cases.iter().filter_map(|case| check::run(&server, case).err()).collect();
    assert!(problems.is_empty(), "{} of {} cases fail:\n{}", problems.len(), cases.len(), problems.join("\n"));
}

// budget: 40 s
#[test]
fn every_case_of_the_table_holds_for_the_python_client() {
    let Some(python) = std::env::var_os("HONE_OPENAI_PYTHON") else {
        return say("skipped: HONE_OPENAI_PYTHON names no Python with OpenAI's client");
    };
    run_client("python", Command::new(python).arg(folder().join("client.py")));
}

// budget: 40 s
#[test]
fn every_case_of_the_table_holds_for_the_node_client() {
    let Some(modules) = std::env::var_os("HONE_OPENAI_NODE") else {
        return say("skipped: HONE_OPENAI_NODE names no folder with OpenAI's client for Node");
    };
    let modules = Path::new(&modules).join("node_modules/openai");
    run_client("node", Command::new("node").arg(folder().join("client.mjs")).arg(modules));
}

// budget: 10 s
#[test]
fn the_log_holds_no_key_and_above_debug_no_prompt_and_no_answer() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    const KEY: &str = "hone_key-that-must-not-be-logged";
    for level in ["trace", "info"] {
        let server = Server::start_with(&[], &[("HONE_ADMIN_KEY", KEY), ("HONE_LOG", level)]);
        let prompt = "[stop] prompt-that-must-not-be-logged";
        let body = json!({"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 20});
        let answer = server.send("POST", "/v1/chat/completions", body.to_string().as_bytes());
        assert!(answer.text.contains("alpha beta gamma"), "{}", answer.text);
        let refused = server.send("POST", "/v1/chat/completions", br#"{"messages": "prompt-that-must-not-be-logged"}"#);
        assert_eq!(refused.status, 400);
        let log = server.log();
        assert!(log.contains("serving model switched"), "the log is there: {log}");
        assert!(!log.contains(KEY), "a key is in the log");
        if level == "info" {
            assert!(!log.contains("must-not-be-logged") && !log.contains("alpha beta"), "{log}");
        }
    }
}

// budget: 10 s
#[test]
fn a_chat_in_the_terminal_keeps_its_history() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let server = Server::start(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    command.arg("--root").arg(server.root.path()).args([
        "chat",
        "--temperature",
        "0",
        "--max-tokens",
        "50",
        "--url",
        &server.url("/v1"),
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = "[stop] one\n/system Be brief.\n[dice] two\n/history\n/reset\n/history\n[mixed]\n/quit\n";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stdout, format!("alpha beta gamma\nheads\n{}\n", scripted::MIXED));
    let history =
        "system: Be brief.\nuser: [stop] one\nassistant: alpha beta gamma\nuser: [dice] two\nassistant: heads\n";
    assert!(stderr.contains(history), "{stderr}");
    assert!(stderr.contains("a new conversation\nsystem: Be brief.\n[checkpoint-7-"), "{stderr}");
}

// budget: 10 s
#[test]
fn keys_are_made_on_the_command_line_and_close_the_server() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let server = Server::start(&[]);
    let hone = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_hone")).arg("--root").arg(server.root.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let key = hone(&["keys", "make", "alice"]).trim().to_string();
    assert!(key.starts_with("hone_"), "{key}");
    let listed: serde_json::Value = serde_json::from_str(&hone(&["keys", "list", "--json"])).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["level"]), (&json!("alice"), &json!("read")));
    let start = std::time::Instant::now();
    while server.send("GET", "/v1/models", b"").status != 401 {
        assert!(start.elapsed().as_secs() < 20, "the running server sees the key");
        std::thread::yield_now();
    }
}

/// Not by `eprintln!`: it is told also where the output of tests is not shown.
fn say(text: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()).unwrap();
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// Runs a client over the expanded table; it prints a line for each failing case and exits with 1. Exactly the cases that
/// the table gives to it must have run, by its own count, and the server must have heard of each of them.
#[track_caller]
fn run_client(who: &str, command: &mut Command) {
    let cases = table::load();
    let expected = cases.iter().filter(|case| case.only.is_empty() || case.only.iter().any(|name| name == who)).count();
    assert!(expected >= FEWEST_CASES_OF_A_CLIENT, "only {expected} cases for {who}");
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cases.json");
    hone_disk::write_json(&path, &cases).unwrap();
    let before = num_requests(&server);
    let output = command.arg(server.url("")).arg(&path).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let last = stdout.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("{expected} of {expected} cases hold for openai ")), "{who}: {last:?}");
    let heard = num_requests(&server) - before;
    assert!(heard >= expected, "{who} sent {heard} requests for {expected} cases");
}

/// Requests that the server has answered, but for those for its metrics.
fn num_requests(server: &Server) -> usize {
    let metrics = server.send("GET", "/metrics", b"").text;
    let lines = metrics.lines().filter(|line| line.starts_with("hone_serve_requests_total{"));
    let lines = lines.filter(|line| !line.contains("\"/metrics\""));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}
