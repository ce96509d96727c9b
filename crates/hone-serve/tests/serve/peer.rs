//! OpenAI's own Python client as a peer. Runs when `HONE_OPENAI_PYTHON` names an interpreter that has it.

use crate::fixture::*;
use std::path::Path;
use std::process::Command;

// budget: 20 s
#[test]
fn the_official_client_works_unchanged() {
    let Some(python) = std::env::var_os("HONE_OPENAI_PYTHON") else { return };
    let model = Model::random(42, 1);
    let server = Server::start_with(|options| options.keys = keys("reader", "boss"));
    server.deploy(&model);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/openai_client_check.py");
    let output = Command::new(python)
        .arg(script)
        .arg(server.url(""))
        .args(["--checkpoint", "checkpoint-42", "--key", "reader", "--model", MODEL_NAME])
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains(&model.stamp()), "{stdout}");
}
